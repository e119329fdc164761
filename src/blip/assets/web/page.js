// The page: sends the user's photo and texts to the worker and shows the results.

import { readSite } from "./download.js";
import { check, listen } from "./photo.js";
import { clear, show } from "./table.js";

const MAX_TEXTS = 50;
const element = (id) => document.getElementById(id);
const worker = startWorker();
let job = 0; // id of the last job sent to the worker
let photo = 0; // id of the job of the displayed photo; 0 without a photo
let state = "loading"; // of the model: loading, ready or failed

const HANDLERS = {
  progress: showProgress,
  ready: showReady,
  failed: ({ reason }) => fail(`The model could not be loaded (${reason}). Reload the page to try again.`),
  encoded: ({ id }) => { if (id === photo) score(); },
  caption: showCaption,
  scores: showScores,
  error: showError,
};

worker.onmessage = ({ data }) => HANDLERS[data.kind](data);
worker.onerror = (event) => fail(`The model could not be started (${event.message || "this browser lacks module workers"}).`);
element("status").textContent = "Loading the model …";
listen(usePhoto);
element("form").addEventListener("submit", (event) => {
  event.preventDefault();
  score();
});
element("texts").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) score();
});
readSite().then(showSite, () => {}); // the worker reports a failure

/** Start the worker from a blob, so that the page's content security policy applies to it. */
function startWorker() {
  const code = `import ${JSON.stringify(new URL("worker.js", import.meta.url).href)};`;
  return new Worker(URL.createObjectURL(new Blob([code], { type: "text/javascript" })), { type: "module" });
}

function showSite({ bundled }) {
  element(bundled ? "about-tiny" : "about-other").hidden = false;
}

function showProgress({ loaded, total }) {
  const megabytes = (bytes) => Math.round(bytes / 1e6);
  element("progress").hidden = false;
  if (total) element("progress").value = loaded / total;
  else element("progress").removeAttribute("value");
  element("status").textContent = total
    ? `Loading the model (only once): ${megabytes(loaded)} of ${megabytes(total)} MB`
    : "Starting the model …";
}

function showReady({ canMatch }) {
  state = "ready";
  element("loading").hidden = true;
  element("matching").hidden = !canMatch;
}

function fail(message) {
  state = "failed";
  element("progress").hidden = true;
  element("status").textContent = message;
  showText("The model is not available.", "");
}

/** Show a new photo and send it to the worker; results of the previous one disappear at once. */
async function usePhoto(source, name) {
  const id = ++job;
  photo = id;
  element("problem").hidden = true;
  try {
    const blob = await source, address = await check(blob);
    if (id !== photo) return URL.revokeObjectURL(address);
    preview(address, name);
    worker.postMessage({ kind: "photo", id, blob });
  } catch (error) {
    if (id === photo) reject(`${name}: ${error.message}`);
  }
}

function preview(address, name) {
  URL.revokeObjectURL(element("preview").src);
  Object.assign(element("preview"), { src: address, alt: `Your photo ${name}`, hidden: false });
  element("invitation").firstElementChild.textContent = "Choose another photo";
  clear();
  showNote("");
  if (state !== "failed") showText(state === "loading" ? "Waiting for the model to load …" : "Captioning …", "");
}

function reject(message) {
  URL.revokeObjectURL(element("preview").src);
  element("preview").hidden = true;
  element("preview").removeAttribute("src");
  element("invitation").firstElementChild.textContent = "Choose a photo";
  photo = 0;
  clear();
  showNote("");
  element("problem").textContent = message;
  element("problem").hidden = false;
  if (state !== "failed") showText("Choose a photo to see its caption.", "");
}

function showText(text, detail, isCaption = false) {
  element("caption").textContent = text;
  element("caption").classList.toggle("waiting", !isCaption);
  element("caption-note").textContent = detail;
}

function showNote(text) {
  element("texts-note").textContent = text;
}

function showCaption({ id, text, score, seconds }) {
  if (id !== photo) return;
  const detail = `Mean log-probability per token ${score.toFixed(2).replace("-", "\u2212")} · ${seconds.toFixed(1)} s`;
  showText(text, detail, true);
}

function score() {
  if (element("matching").hidden) return;
  const texts = element("texts").value.split("\n").map((text) => text.trim()).filter(Boolean);
  clear();
  if (!texts.length) return showNote("Type texts to score, one per line.");
  if (texts.length > MAX_TEXTS) return showNote(`${texts.length} texts; the limit is ${MAX_TEXTS}.`);
  if (!photo) return showNote("Choose a photo first.");
  showNote(state === "ready" ? "Scoring …" : "Waiting for the model to load …");
  worker.postMessage({ kind: "match", id: ++job, texts });
}

function showScores({ id, rows }) {
  if (id !== job) return;
  showNote("");
  show(rows);
}

function showError({ job: kind, id, reason }) {
  if (kind === "photo" && id === photo) reject(`the photo cannot be decoded (${reason})`);
  if (kind === "match" && id === job) showNote(`The texts could not be scored (${reason}).`);
}
