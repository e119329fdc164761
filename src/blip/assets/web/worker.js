// The model in a thread of its own, so that the page stays responsive. One job after the other.
//
// To the page: {kind: progress | ready | failed}, then for each job {kind: seen | caption | scores | error, id, ...}.
// From the page: {kind: photo, id, blob} and {kind: match, id, texts}; texts are matched with the latest photo.

import { download, readSite } from "./download.js";
import { loadModel } from "./model.js";

const JOBS = { photo: describe, match: score };
const newest = {}; // id of the last job asked for of each kind: older ones that still wait are dropped
let seen = null; // what the model made of the photo
let queue = load();

self.onmessage = ({ data: job }) => {
  newest[job.kind] = job.id;
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
  seen = null;
  seen = await model.see(job.blob);
  if (isStale(job)) return;
  postMessage({ kind: "seen", id: job.id });
  const caption = await model.caption(seen);
  postMessage({ kind: "caption", id: job.id, ...caption, seconds: (performance.now() - start) / 1000 });
}

async function score(model, job) {
  if (!seen) return;
  const rows = [];
  for (const text of job.texts) {
    rows.push({ text, ...(await model.match(seen, text)) });
    if (isStale(job)) return;
  }
  postMessage({ kind: "scores", id: job.id, rows });
}

function isStale(job) {
  return newest[job.kind] !== job.id;
}
