// The page: what the user gives goes to the worker, what the worker finds is shown.

import { readSite } from "./download.js";
import { check, listen } from "./photo.js";
import { clear, show } from "./table.js";

const MAX_TEXTS = 50;
const at = (id) => document.getElementById(id);
const worker = startWorker();
let job = 0; // number of the last thing asked of the worker
let photo = 0; // number of the photo that is shown
let state = "loading"; // the model: loading, ready or failed

const SHOW = {
  progress: showProgress,
  ready: showReady,
  failed: ({ reason }) => fail(`The model could not be loaded (${reason}). Reload the page to try again.`),
  seen: ({ id }) => { if (id === photo) score(); },
  caption: showCaption,
  scores: showScores,
  error: showError,
};

worker.onmessage = ({ data }) => SHOW[data.kind](data);
worker.onerror = (event) => fail(`The model could not be started (${event.message || "this browser lacks module workers"}).`);
at("status").textContent = "Loading the model …";
listen(take);
at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  score();
});
at("texts").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) score();
});
readSite().then(showSite, () => {}); // a site that cannot be read is the worker's to tell

/** A worker from a blob obeys the page's rules on connections; one from a file would not. */
function startWorker() {
  const code = `import ${JSON.stringify(new URL("worker.js", import.meta.url).href)};`;
  return new Worker(URL.createObjectURL(new Blob([code], { type: "text/javascript" })), { type: "module" });
}

function showSite({ bundled }) {
  at(bundled ? "about-tiny" : "about-other").hidden = false;
}

function showProgress({ loaded, total }) {
  const megabytes = (bytes) => Math.round(bytes / 1e6);
  at("progress").hidden = false;
  if (total) at("progress").value = loaded / total;
  else at("progress").removeAttribute("value");
  at("status").textContent = total
    ? `Loading the model, once: ${megabytes(loaded)} of ${megabytes(total)} MB`
    : "Starting the model …";
}

function showReady({ canMatch }) {
  state = "ready";
  at("loading").hidden = true;
  at("matching").hidden = !canMatch;
}

function fail(message) {
  state = "failed";
  at("progress").hidden = true;
  at("status").textContent = message;
  say("The model is not there.", "");
}

/** A new photo: what was shown of the last one goes at once. */
async function take(source, name) {
  const id = ++job;
  photo = id;
  at("problem").hidden = true;
  try {
    const blob = await source, address = await check(blob);
    if (id !== photo) return URL.revokeObjectURL(address);
    preview(address, name);
    worker.postMessage({ kind: "photo", id, blob });
  } catch (error) {
    if (id === photo) refuse(`${name}: ${error.message}`);
  }
}

function preview(address, name) {
  URL.revokeObjectURL(at("preview").src);
  Object.assign(at("preview"), { src: address, alt: `Your photo ${name}`, hidden: false });
  at("invitation").firstElementChild.textContent = "Choose another photo";
  clear();
  note("");
  if (state !== "failed") say(state === "loading" ? "As soon as the model has loaded …" : "Looking …", "");
}

function refuse(message) {
  URL.revokeObjectURL(at("preview").src);
  at("preview").hidden = true;
  at("preview").removeAttribute("src");
  at("invitation").firstElementChild.textContent = "Choose a photo";
  photo = 0;
  clear();
  note("");
  at("problem").textContent = message;
  at("problem").hidden = false;
  if (state !== "failed") say("Choose a photo to see what the model says.", "");
}

function say(text, small, isCaption = false) {
  at("caption").textContent = text;
  at("caption").classList.toggle("waiting", !isCaption);
  at("caption-note").textContent = small;
}

function note(text) {
  at("texts-note").textContent = text;
}

function showCaption({ id, text, score, seconds }) {
  if (id !== photo) return;
  const small = `Mean log-probability of a token ${score.toFixed(2).replace("-", "\u2212")} · ${seconds.toFixed(1)} s`;
  say(text, small, true);
}

function score() {
  if (at("matching").hidden) return;
  const texts = at("texts").value.split("\n").map((text) => text.trim()).filter(Boolean);
  clear();
  if (!texts.length) return note("Type a text to score, one a line.");
  if (texts.length > MAX_TEXTS) return note(`${texts.length} texts; at most ${MAX_TEXTS} are scored at a time.`);
  if (!photo) return note("Choose a photo first.");
  note(state === "ready" ? "Scoring …" : "As soon as the model has loaded …");
  worker.postMessage({ kind: "match", id: ++job, texts });
}

function showScores({ id, rows }) {
  if (id !== job) return;
  note("");
  show(rows);
}

function showError({ job: kind, id, reason }) {
  if (kind === "photo" && id === photo) refuse(`the photo cannot be read (${reason})`);
  if (kind === "match" && id === job) note(`The texts could not be scored (${reason}).`);
}
