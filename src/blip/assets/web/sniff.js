// Format of an image file by its bytes, checked before decoding.

const SIGNATURES = [
  ["\xff\xd8\xff", "JPEG"], ["\x89PNG\r\n\x1a\n", "PNG"], ["GIF87a", "GIF"], ["GIF89a", "GIF"], ["BM", "BMP"],
  ["II*\0", "TIFF"], ["MM\0*", "TIFF"], ["\0\0\0\x0cjP  ", "JPEG 2000"], ["\xff\x4f\xff\x51", "JPEG 2000"],
];
const OTHER_SIGNATURES = [
  ["%pdf", "a PDF document"], ["<!doctype", "an HTML page"], ["<html", "an HTML page"], ["<svg", "an SVG drawing"],
  ["<?xml", "an XML document"], ["pk\x03\x04", "a ZIP archive"], ["\x1f\x8b", "a gzip file"],
  ["8bps", "a Photoshop file"], ["\0\0\x01\0", "an icon file"],
];
const HEIC_BRANDS = ["heic", "heix", "hevc", "hevx", "heim", "heis", "mif1", "msf1"];

/** Return the name of the image format; throws if the bytes are not an image or are truncated. */
export function inspect(bytes) {
  if (!bytes.length) throw new Error("empty file (0 bytes)");
  const format = imageFormat(bytes);
  if (!format) throw new Error(explainNotImage(bytes));
  if (isTruncated(bytes, format)) throw new Error(`truncated image (ends after ${bytes.length.toLocaleString("en")} bytes)`);
  return format;
}

function imageFormat(bytes) {
  const head = latin1(bytes, 0, 32);
  const match = SIGNATURES.find(([bytes]) => head.startsWith(bytes));
  if (match) return match[1];
  if (head.startsWith("RIFF") && head.slice(8, 12) === "WEBP") return "WebP";
  if (head.slice(4, 8) !== "ftyp") return "";
  const length = Math.min(view(bytes).getUint32(0), 256, bytes.length);
  const brands = latin1(bytes, 8, length);
  if (brands.includes("avif") || brands.includes("avis")) return "AVIF";
  return HEIC_BRANDS.some((brand) => brands.includes(brand)) ? "HEIC" : "";
}

function explainNotImage(bytes) {
  const text = latin1(bytes, 0, 64).replace(/^[\xef\xbb\xbf \t\r\n]+/, "").toLowerCase();
  const other = OTHER_SIGNATURES.find(([start]) => text.startsWith(start));
  if (other) return `not an image but ${other[1]}`;
  const isVideo = text.slice(4, 8) === "ftyp" || (text.startsWith("riff") && text.slice(8, 12) === "avi ");
  return isVideo ? "not an image but a video" : "not an image";
}

/** Browsers silently draw the available part of a truncated file, which would get a wrong caption. */
function isTruncated(bytes, format) {
  if (format === "WebP") return bytes.length < 12 || 8 + view(bytes).getUint32(4, true) > bytes.length;
  if (format === "PNG") return isTruncatedPng(bytes);
  return format === "JPEG" && isTruncatedJpeg(bytes);
}

function isTruncatedPng(bytes) {
  for (let at = 8; at + 12 <= bytes.length; at += 12 + view(bytes).getUint32(at)) {
    if (latin1(bytes, at + 4, at + 8) === "IEND") return false;
  }
  return true;
}

/** Whether the end marker is missing after the main scan; a thumbnail's own marker is in a segment before it. */
function isTruncatedJpeg(bytes) {
  let at = 2;
  while (at + 4 <= bytes.length && bytes[at] === 0xff && bytes[at + 1] !== 0xda) {
    at += bytes[at + 1] === 0xff ? 1 : 2 + view(bytes).getUint16(at + 2);
  }
  for (let end = bytes.indexOf(0xff, at + 2); end >= 0; end = bytes.indexOf(0xff, end + 1)) {
    if (bytes[end + 1] === 0xd9) return false;
  }
  return true;
}

function latin1(bytes, start, end) {
  return String.fromCharCode(...bytes.subarray(start, end));
}

function view(bytes) {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
