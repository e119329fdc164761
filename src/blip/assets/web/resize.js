// Bicubic resize, bit for bit as in Pillow: fixed-point coefficients, each pass rounded to 8 bits.

const PRECISION = 22; // fractional bits: 32 minus 8 bits of a pixel and 2 for sums that exceed it
const STRIP = 1 << 20; // pixels read at a time, which bounds the memory of a large photo

/**
 * Resize to RGB bytes [size, size, 3], ignoring the aspect ratio. read(left, top, width, height) returns RGBA bytes of
 * an area. Horizontally first, but vertically first for tall images, as in Pillow 13; the order affects rounding.
 */
export function resizeToSquare(read, width, height, size) {
  const isVerticalFirst = height > size && height - size > 2 * (width - size);
  return isVerticalFirst ? verticalFirst(read, width, height, size) : horizontalFirst(read, width, height, size);
}

function horizontalFirst(read, width, height, size) {
  const intermediate = new Uint8Array(height * size * 3), kernel = makeKernel(width, size);
  const rows = Math.max(1, Math.floor(STRIP / width));
  for (let top = 0; top < height; top += rows) {
    const count = Math.min(rows, height - top);
    const strip = read(0, top, width, count);
    const from = { data: strip, line: width * 4, step: 4 };
    resizeLines(from, { data: intermediate, start: top * size * 3, line: size * 3, step: 3 }, count, kernel);
  }
  const result = new Uint8Array(size * size * 3);
  const vertical = { data: intermediate, line: 3, step: size * 3 };
  resizeLines(vertical, { data: result, start: 0, line: 3, step: size * 3 }, size, makeKernel(height, size));
  return result;
}

function verticalFirst(read, width, height, size) {
  const intermediate = new Uint8Array(size * width * 3), kernel = makeKernel(height, size);
  const columns = Math.max(1, Math.floor(STRIP / height));
  for (let left = 0; left < width; left += columns) {
    const count = Math.min(columns, width - left);
    const strip = read(left, 0, count, height);
    const from = { data: strip, line: 4, step: count * 4 };
    resizeLines(from, { data: intermediate, start: left * 3, line: 3, step: width * 3 }, count, kernel);
  }
  const result = new Uint8Array(size * size * 3);
  const horizontal = { data: intermediate, line: width * 3, step: 3 };
  resizeLines(horizontal, { data: result, start: 0, line: size * 3, step: 3 }, size, makeKernel(width, size));
  return result;
}

/** Resize `lines` lines of pixels along one axis. line, step: bytes from line to line and from pixel to pixel. */
function resizeLines(from, to, lines, kernel) {
  const { starts, counts, weights, taps } = kernel, half = 1 << (PRECISION - 1);
  const data = from.data, step = from.step;
  for (let line = 0; line < lines; line++) {
    for (let i = 0; i < starts.length; i++) {
      let red = half, green = half, blue = half;
      let offset = line * from.line + starts[i] * step;
      for (let k = i * taps, end = k + counts[i]; k < end; k++, offset += step) {
        const weight = weights[k];
        red = (red + Math.imul(data[offset], weight)) | 0;
        green = (green + Math.imul(data[offset + 1], weight)) | 0;
        blue = (blue + Math.imul(data[offset + 2], weight)) | 0;
      }
      const out = to.start + line * to.line + i * to.step;
      to.data[out] = clip(red >> PRECISION);
      to.data[out + 1] = clip(green >> PRECISION);
      to.data[out + 2] = clip(blue >> PRECISION);
    }
  }
}

function clip(value) {
  return value < 0 ? 0 : value > 255 ? 255 : value;
}

/** For each of `to` pixels: first source pixel of `from`, number of them, and their fixed-point weights. */
function makeKernel(from, to) {
  if (from === to) return identityKernel(to); // Pillow skips a pass of equal sizes
  const scale = from / to, stretch = Math.max(scale, 1), support = 2 * stretch, taps = Math.ceil(support) * 2 + 1;
  const starts = new Int32Array(to), counts = new Int32Array(to), weights = new Int32Array(to * taps);
  for (let i = 0; i < to; i++) {
    const center = (i + 0.5) * scale;
    const start = Math.max(0, Math.trunc(center - support + 0.5));
    const count = Math.min(from, Math.trunc(center + support + 0.5)) - start;
    const values = Array.from({ length: count }, (_, k) => bicubic((k + start - center + 0.5) * (1 / stretch)));
    const sum = values.reduce((total, value) => total + value, 0);
    values.forEach((value, k) => { weights[i * taps + k] = toFixed(value / sum); });
    starts[i] = start;
    counts[i] = count;
  }
  return { starts, counts, weights, taps };
}

function identityKernel(size) {
  const starts = Int32Array.from({ length: size }, (_, i) => i);
  return { starts, counts: new Int32Array(size).fill(1), weights: new Int32Array(size).fill(1 << PRECISION), taps: 1 };
}

function toFixed(value) {
  return Math.trunc(value * (1 << PRECISION) + (value < 0 ? -0.5 : 0.5));
}

function bicubic(x) {
  const a = -0.5, t = Math.abs(x);
  if (t < 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
  return t < 2 ? (((t - 5) * t + 8) * t - 4) * a : 0;
}

/** Return pixel_values [3, size, size] of RGB bytes, each step rounded to float32 as in numpy. */
export function normalise(rgb, mean, std) {
  const plane = rgb.length / 3, values = new Float32Array(rgb.length), round = Math.fround;
  for (let channel = 0; channel < 3; channel++) {
    const center = round(mean[channel]), spread = round(std[channel]);
    for (let i = 0; i < plane; i++) {
      values[channel * plane + i] = round(round(rgb[i * 3 + channel] / 255) - center) / spread;
    }
  }
  return values;
}
