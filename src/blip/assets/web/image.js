// A photo's bytes to the model's input: decoded by the browser, upright by EXIF, transparency over white.

import { normalise, square } from "./resize.js";

/**
 * pixel_values [3, size, size]. PNG of full opacity: equal to Python's; JPEG decoders may differ in a pixel's last bit,
 * and so may blending with white. Throws where the browser cannot decode the file.
 */
export async function prepare(blob, { size, mean, std }) {
  const bitmap = await createImageBitmap(blob, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  try {
    return normalise(square(reader(bitmap), bitmap.width, bitmap.height, size), mean, std);
  } finally {
    bitmap.close();
  }
}

function reader(bitmap) {
  return (left, top, width, height) => {
    const context = new OffscreenCanvas(width, height).getContext("2d", { alpha: false, willReadFrequently: true });
    context.fillStyle = "white";
    context.fillRect(0, 0, width, height);
    context.drawImage(bitmap, -left, -top);
    return context.getImageData(0, 0, width, height).data;
  };
}
