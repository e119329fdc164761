// Pixel values of a photo: decoded by the browser, rotated by EXIF, transparency blended with white.

import { normalise, resizeToSquare } from "./resize.js";

/**
 * Return pixel_values [3, size, size]. Equal to Python's for opaque PNG; JPEG decoding and blending with white may
 * differ in a pixel's last bit. Throws if the browser cannot decode the file.
 */
export async function prepare(blob, { size, mean, std }) {
  const bitmap = await createImageBitmap(blob, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  try {
    return normalise(resizeToSquare(areaReader(bitmap), bitmap.width, bitmap.height, size), mean, std);
  } finally {
    bitmap.close();
  }
}

/** Return a function that reads RGBA bytes of an area. */
function areaReader(bitmap) {
  return (left, top, width, height) => {
    const context = new OffscreenCanvas(width, height).getContext("2d", { alpha: false, willReadFrequently: true });
    context.fillStyle = "white";
    context.fillRect(0, 0, width, height);
    context.drawImage(bitmap, -left, -top);
    return context.getImageData(0, 0, width, height).data;
  };
}
