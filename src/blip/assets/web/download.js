// The files of the model, with the progress of all together. What has been downloaded once is kept by the browser.

const HERE = new URL("./", import.meta.url);

/**
 * The list of files (site.json) beside this module: { bundled, files: [{ path, bytes, version }] }.
 * Asked for anew each time, so that the files below are never those of an older page.
 */
export async function readSite() {
  const response = await get(new URL("site.json", HERE), "no-cache");
  return response.json();
}

/** Bytes by path. */
export async function download(files, onProgress) {
  const total = files.reduce((sum, file) => sum + file.bytes, 0), found = new Map(), shelf = await openShelf();
  let loaded = 0;
  for (const file of files) {
    const address = new URL(`${file.path}?v=${file.version}`, HERE), kept = await shelf?.match(address);
    const response = kept ?? (await get(address, "default"));
    const data = await read(response, file, (bytes) => onProgress(loaded + bytes, total));
    loaded += file.bytes;
    found.set(file.path, data);
    if (!kept) await shelf?.put(address, new Response(data)).catch(() => {}); // a full disk: next time from the net
  }
  await tidy(shelf, files);
  return found;
}

/** The browser's store for this page, which takes larger files than its cache; none where the page is not secure. */
async function openShelf() {
  try {
    return await caches.open(`blip ${HERE.pathname}`);
  } catch {
    return null;
  }
}

/** Removes what older versions of the page kept. */
async function tidy(shelf, files) {
  const versions = new Set(files.map((file) => file.version));
  for (const request of (await shelf?.keys()) ?? []) {
    if (!versions.has(new URL(request.url).searchParams.get("v"))) await shelf.delete(request);
  }
}

async function read(response, { path, bytes }, onProgress) {
  const data = new Uint8Array(bytes);
  let at = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    if (at + value.length > bytes) throw new Error(`${path}: longer than its ${bytes} bytes`);
    data.set(value, at);
    at += value.length;
    onProgress(at);
  }
  if (at !== bytes) throw new Error(`${path}: ends after ${at} of ${bytes} bytes`);
  return data;
}

async function get(address, cache) {
  const response = await fetch(address, { cache });
  if (!response.ok) throw new Error(`${address.pathname}: the server answers ${response.status}`);
  return response;
}
