// Ways to give a photo: chosen, dropped, pasted or an example. Checked before the model sees it.

import { inspect } from "./file.js";

const MAX_BYTES = 30e6, MAX_PIXELS = 50e6;

/** Calls take(promise of a Blob, its name) for every photo that the user gives, in whatever way. */
export function listen(take) {
  const file = document.querySelector("#file");
  file.addEventListener("change", () => {
    takeFirst(file.files, take);
    file.value = ""; // so that the same file may be chosen again
  });
  document.addEventListener("paste", (event) => takeFirst(event.clipboardData.files, take));
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      if (kind !== "dragleave") event.preventDefault(); // else the browser would leave for the file
      document.body.classList.toggle("dragging", kind === "dragover");
      if (kind === "drop") takeFirst(event.dataTransfer.files, take);
    });
  }
  for (const button of document.querySelectorAll("[data-example]")) {
    const name = button.dataset.example;
    button.addEventListener("click", () => take(fetchExample(name), name));
  }
}

function takeFirst(files, take) {
  if (files.length) take(Promise.resolve(files[0]), files[0].name);
}

async function fetchExample(name) {
  const response = await fetch(new URL(`examples/${name}`, import.meta.url), { cache: "force-cache" });
  if (!response.ok) throw new Error(`the server answers ${response.status}`);
  return response.blob();
}

/** The address of a photo that can be shown; throws where the file is no photo that can be used. */
export async function check(blob) {
  if (blob.size > MAX_BYTES) throw new Error(`${(blob.size / 1e6).toFixed(1)} MB; at most 30 MB are read`);
  const kind = inspect(new Uint8Array(await blob.arrayBuffer()));
  const image = new Image();
  image.src = URL.createObjectURL(blob);
  try {
    await new Promise((resolve, reject) => Object.assign(image, { onload: resolve, onerror: reject }));
    const { naturalWidth: width, naturalHeight: height } = image;
    if (width * height > MAX_PIXELS) {
      throw new Error(`${width}x${height} is ${(width * height / 1e6).toFixed(1)} megapixels; at most 50 are read`);
    }
    return image.src;
  } catch (error) {
    URL.revokeObjectURL(image.src);
    throw error instanceof Error ? error : new Error(unreadable(kind));
  }
}

function unreadable(kind) {
  const isForeign = ["TIFF", "HEIC", "JPEG 2000", "AVIF"].includes(kind);
  return isForeign ? `${kind} image, which this browser cannot read; give JPEG or PNG` : `damaged ${kind} image`;
}
