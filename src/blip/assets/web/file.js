// What a file is by its bytes, before any decoder sees it. Bad ones throw an Error with one reason.

const STARTS = [
  ["\xff\xd8\xff", "JPEG"], ["\x89PNG\r\n\x1a\n", "PNG"], ["GIF87a", "GIF"], ["GIF89a", "GIF"], ["BM", "BMP"],
  ["II*\0", "TIFF"], ["MM\0*", "TIFF"], ["\0\0\0\x0cjP  ", "JPEG 2000"], ["\xff\x4f\xff\x51", "JPEG 2000"],
];
const OTHERS = [
  ["%pdf", "a PDF document"], ["<!doctype", "an HTML page"], ["<html", "an HTML page"], ["<svg", "an SVG drawing"],
  ["<?xml", "an XML document"], ["pk\x03\x04", "a ZIP archive"], ["\x1f\x8b", "a gzip file"],
  ["8bps", "a Photoshop file"], ["\0\0\x01\0", "an icon file"],
];
const HEIC = ["heic", "heix", "hevc", "hevx", "heim", "heis", "mif1", "msf1"];

/** Name of the image format; throws where the bytes are no image or end too early. */
export function inspect(bytes) {
  if (!bytes.length) throw new Error("empty file (0 bytes)");
  const kind = kindOf(bytes);
  if (!kind) throw new Error(describe(bytes));
  if (isCut(bytes, kind)) throw new Error(`truncated image (ends after ${bytes.length.toLocaleString("en")} bytes)`);
  return kind;
}

function kindOf(bytes) {
  const head = latin(bytes, 0, 32);
  const found = STARTS.find(([start]) => head.startsWith(start));
  if (found) return found[1];
  if (head.startsWith("RIFF") && head.slice(8, 12) === "WEBP") return "WebP";
  if (head.slice(4, 8) !== "ftyp") return "";
  const length = Math.min(view(bytes).getUint32(0), 256, bytes.length);
  const brands = latin(bytes, 8, length);
  if (brands.includes("avif") || brands.includes("avis")) return "AVIF";
  return HEIC.some((brand) => brands.includes(brand)) ? "HEIC" : "";
}

function describe(bytes) {
  const text = latin(bytes, 0, 64).replace(/^[\xef\xbb\xbf \t\r\n]+/, "").toLowerCase();
  const other = OTHERS.find(([start]) => text.startsWith(start));
  if (other) return `not an image but ${other[1]}`;
  const isVideo = text.slice(4, 8) === "ftyp" || (text.startsWith("riff") && text.slice(8, 12) === "avi ");
  return isVideo ? "not an image but a video" : "not an image";
}

/** Browsers draw what there is of a file that ends early; a caption of half a photo would be no caption of it. */
function isCut(bytes, kind) {
  if (kind === "WebP") return bytes.length < 12 || 8 + view(bytes).getUint32(4, true) > bytes.length;
  if (kind === "PNG") return isCutPng(bytes);
  return kind === "JPEG" && isCutJpeg(bytes);
}

function isCutPng(bytes) {
  for (let at = 8; at + 12 <= bytes.length; at += 12 + view(bytes).getUint32(at)) {
    if (latin(bytes, at + 4, at + 8) === "IEND") return false;
  }
  return true;
}

/** Whether the end marker is missing after the main scan; that of a thumbnail lies in a segment before it. */
function isCutJpeg(bytes) {
  let at = 2;
  while (at + 4 <= bytes.length && bytes[at] === 0xff && bytes[at + 1] !== 0xda) {
    at += bytes[at + 1] === 0xff ? 1 : 2 + view(bytes).getUint16(at + 2);
  }
  for (let end = bytes.indexOf(0xff, at + 2); end >= 0; end = bytes.indexOf(0xff, end + 1)) {
    if (bytes[end + 1] === 0xd9) return false;
  }
  return true;
}

function latin(bytes, start, end) {
  return String.fromCharCode(...bytes.subarray(start, end));
}

function view(bytes) {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
