// Download of the model's files with total progress. The browser keeps what has been downloaded.

const BASE = new URL("./", import.meta.url);

/**
 * Fetch the list of files (site.json) beside this module: { bundled, files: [{ path, bytes, version }] }.
 * Revalidated every time, so that the files are never those of an older page.
 */
export async function readSite() {
  const response = await get(new URL("site.json", BASE), "no-cache");
  return response.json();
}

/** Fetch files; returns a Map of bytes by path. Calls onProgress(bytes loaded, bytes in all). */
export async function download(files, onProgress) {
  const total = files.reduce((sum, file) => sum + file.bytes, 0);
  const result = new Map(), store = await openStore();
  let loaded = 0;
  for (const file of files) {
    const address = new URL(`${file.path}?v=${file.version}`, BASE), cached = await store?.match(address);
    const response = cached ?? (await get(address, "default"));
    const data = await read(response, file, (bytes) => onProgress(loaded + bytes, total));
    loaded += file.bytes;
    result.set(file.path, data);
    if (!cached) await store?.put(address, new Response(data)).catch(() => {}); // full disk: download again next time
  }
  await removeOldVersions(store, files);
  return result;
}

/** The browser's cache storage for this page, which takes larger files than its HTTP cache; null without HTTPS. */
async function openStore() {
  try {
    return await caches.open(`blip ${BASE.pathname}`);
  } catch {
    return null;
  }
}

/** Delete files of older versions of the page. */
async function removeOldVersions(store, files) {
  const versions = new Set(files.map((file) => file.version));
  for (const request of (await store?.keys()) ?? []) {
    if (!versions.has(new URL(request.url).searchParams.get("v"))) await store.delete(request);
  }
}

async function read(response, { path, bytes }, onProgress) {
  const data = new Uint8Array(bytes);
  let offset = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    if (offset + value.length > bytes) throw new Error(`${path}: longer than the expected ${bytes} bytes`);
    data.set(value, offset);
    offset += value.length;
    onProgress(offset);
  }
  if (offset !== bytes) throw new Error(`${path}: ends after ${offset} of ${bytes} bytes`);
  return data;
}

async function get(address, cache) {
  const response = await fetch(address, { cache });
  if (!response.ok) throw new Error(`${address.pathname}: the server answered ${response.status}`);
  return response;
}
