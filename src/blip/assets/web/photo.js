// Input of a photo: chosen, dropped, pasted or an example; checked before it is sent to the model.

import { inspect } from "./sniff.js";

const MAX_BYTES = 30e6, MAX_PIXELS = 50e6;

/** Call onPhoto(promise of a Blob, its name) for every photo from the user. */
export function listen(onPhoto) {
  const file = document.querySelector("#file");
  file.addEventListener("change", () => {
    sendFirst(file.files, onPhoto);
    file.value = ""; // allows choosing the same file again
  });
  document.addEventListener("paste", (event) => sendFirst(event.clipboardData.files, onPhoto));
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      if (kind !== "dragleave") event.preventDefault(); // the browser would open the file instead
      document.body.classList.toggle("dragging", kind === "dragover");
      if (kind === "drop") sendFirst(event.dataTransfer.files, onPhoto);
    });
  }
  for (const button of document.querySelectorAll("[data-example]")) {
    const name = button.dataset.example;
    button.addEventListener("click", () => onPhoto(fetchExample(name), name));
  }
}

function sendFirst(files, onPhoto) {
  if (files.length) onPhoto(Promise.resolve(files[0]), files[0].name);
}

async function fetchExample(name) {
  const response = await fetch(new URL(`examples/${name}`, import.meta.url), { cache: "force-cache" });
  if (!response.ok) throw new Error(`the server answered ${response.status}`);
  return response.blob();
}

/** Return an object URL of a photo; throws if the file cannot be used. */
export async function check(blob) {
  if (blob.size > MAX_BYTES) throw new Error(`${(blob.size / 1e6).toFixed(1)} MB; the limit is 30 MB`);
  const format = inspect(new Uint8Array(await blob.arrayBuffer()));
  const image = new Image();
  image.src = URL.createObjectURL(blob);
  try {
    await new Promise((resolve, reject) => Object.assign(image, { onload: resolve, onerror: reject }));
    const { naturalWidth: width, naturalHeight: height } = image;
    if (width * height > MAX_PIXELS) {
      throw new Error(`${width}x${height} is ${(width * height / 1e6).toFixed(1)} megapixels; the limit is 50`);
    }
    return image.src;
  } catch (error) {
    URL.revokeObjectURL(image.src);
    throw error instanceof Error ? error : new Error(decodeError(format));
  }
}

function decodeError(format) {
  const isOptional = ["TIFF", "HEIC", "JPEG 2000", "AVIF"].includes(format);
  return isOptional ? `this browser cannot read ${format} images; use JPEG or PNG` : `damaged ${format} image`;
}
