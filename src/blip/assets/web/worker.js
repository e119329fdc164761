// Worker that runs the model, so that the page stays responsive. It processes one job at a time.
//
// To the page: {kind: progress | ready | failed}, then for each job {kind: encoded | caption | scores | error, id, ...}.
// From the page: {kind: photo, id, blob} and {kind: match, id, texts}; texts are matched with the latest photo.

import { download, readSite } from "./download.js";
import { loadModel } from "./model.js";

const JOBS = { photo: describe, match: score };
const latest = {}; // id of the last requested job of each kind; older ones still in the queue are dropped
let encoded = null; // of the latest photo
let queue = load();

self.onmessage = ({ data: job }) => {
  latest[job.kind] = job.id;
  queue = queue.then((model) => run(model, job));
};

async function load() {
  try {
    const site = await readSite();
    const files = await download(site.files, (loaded, total) => postMessage({ kind: "progress", loaded, total }));
    postMessage({ kind: "progress" });
    const model = await loadModel(files);
    postMessage({ kind: "ready", canMatch: model.canMatch });
    return model;
  } catch (error) {
    postMessage({ kind: "failed", reason: error.message });
    return null;
  }
}

async function run(model, job) {
  if (!model || isStale(job)) return model;
  try {
    await JOBS[job.kind](model, job);
  } catch (error) {
    postMessage({ kind: "error", job: job.kind, id: job.id, reason: error.message });
  }
  return model;
}

async function describe(model, job) {
  const start = performance.now();
  encoded = null;
  encoded = await model.encode(job.blob);
  if (isStale(job)) return;
  postMessage({ kind: "encoded", id: job.id });
  const caption = await model.caption(encoded);
  postMessage({ kind: "caption", id: job.id, ...caption, seconds: (performance.now() - start) / 1000 });
}

async function score(model, job) {
  if (!encoded) return;
  const rows = [];
  for (const text of job.texts) {
    rows.push({ text, ...(await model.match(encoded, text)) });
    if (isStale(job)) return;
  }
  postMessage({ kind: "scores", id: job.id, rows });
}

function isStale(job) {
  return latest[job.kind] !== job.id;
}
