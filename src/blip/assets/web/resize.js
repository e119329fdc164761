// Bicubic resize as Pillow does it, bit for bit: coefficients in fixed point, each pass rounded to 8 bits.

const BITS = 22; // of the fixed point: 8 bits of a pixel, 2 for sums beyond it
const STRIP = 1 << 20; // pixels read at a time: bounds the memory of a large photo

/**
 * RGB bytes [size, size, 3] of a picture, aspect ratio not kept.
 * read(left, top, width, height) gives RGBA bytes of a part of it. Across first, but down first where the picture is
 * so tall that this is less work: the order of Pillow 13, which shows in the rounding.
 */
export function square(read, width, height, size) {
  const isDownFirst = height > size && height - size > 2 * (width - size);
  return isDownFirst ? downAcross(read, width, height, size) : acrossDown(read, width, height, size);
}

function acrossDown(read, width, height, size) {
  const middle = new Uint8Array(height * size * 3), kernel = kernelOf(width, size);
  const rows = Math.max(1, Math.floor(STRIP / width));
  for (let top = 0; top < height; top += rows) {
    const count = Math.min(rows, height - top);
    const strip = read(0, top, width, count);
    const from = { data: strip, line: width * 4, step: 4 };
    pass(from, { data: middle, start: top * size * 3, line: size * 3, step: 3 }, count, kernel);
  }
  const result = new Uint8Array(size * size * 3);
  const down = { data: middle, line: 3, step: size * 3 };
  pass(down, { data: result, start: 0, line: 3, step: size * 3 }, size, kernelOf(height, size));
  return result;
}

function downAcross(read, width, height, size) {
  const middle = new Uint8Array(size * width * 3), kernel = kernelOf(height, size);
  const columns = Math.max(1, Math.floor(STRIP / height));
  for (let left = 0; left < width; left += columns) {
    const count = Math.min(columns, width - left);
    const strip = read(left, 0, count, height);
    const from = { data: strip, line: 4, step: count * 4 };
    pass(from, { data: middle, start: left * 3, line: 3, step: width * 3 }, count, kernel);
  }
  const result = new Uint8Array(size * size * 3);
  const across = { data: middle, line: width * 3, step: 3 };
  pass(across, { data: result, start: 0, line: size * 3, step: 3 }, size, kernelOf(width, size));
  return result;
}

/** Resizes `lines` lines of pixels along one axis. line, step: bytes from line to line, from pixel to pixel. */
function pass(from, to, lines, kernel) {
  const { starts, counts, weights, most } = kernel, half = 1 << (BITS - 1);
  const data = from.data, step = from.step;
  for (let line = 0; line < lines; line++) {
    for (let i = 0; i < starts.length; i++) {
      let red = half, green = half, blue = half;
      let at = line * from.line + starts[i] * step;
      for (let k = i * most, end = k + counts[i]; k < end; k++, at += step) {
        const weight = weights[k];
        red = (red + Math.imul(data[at], weight)) | 0;
        green = (green + Math.imul(data[at + 1], weight)) | 0;
        blue = (blue + Math.imul(data[at + 2], weight)) | 0;
      }
      const out = to.start + line * to.line + i * to.step;
      to.data[out] = clip(red >> BITS);
      to.data[out + 1] = clip(green >> BITS);
      to.data[out + 2] = clip(blue >> BITS);
    }
  }
}

function clip(value) {
  return value < 0 ? 0 : value > 255 ? 255 : value;
}

/** For each of `to` pixels: where its share of `from` pixels starts, how many they are, their weights in fixed point. */
function kernelOf(from, to) {
  if (from === to) return identity(to); // Pillow skips a pass of equal sizes
  const scale = from / to, stretch = Math.max(scale, 1), support = 2 * stretch, most = Math.ceil(support) * 2 + 1;
  const starts = new Int32Array(to), counts = new Int32Array(to), weights = new Int32Array(to * most);
  for (let i = 0; i < to; i++) {
    const center = (i + 0.5) * scale;
    const start = Math.max(0, Math.trunc(center - support + 0.5));
    const count = Math.min(from, Math.trunc(center + support + 0.5)) - start;
    const values = Array.from({ length: count }, (_, k) => bicubic((k + start - center + 0.5) * (1 / stretch)));
    const sum = values.reduce((total, value) => total + value, 0);
    values.forEach((value, k) => { weights[i * most + k] = toFixed(value / sum); });
    starts[i] = start;
    counts[i] = count;
  }
  return { starts, counts, weights, most };
}

function identity(size) {
  const starts = Int32Array.from({ length: size }, (_, i) => i);
  return { starts, counts: new Int32Array(size).fill(1), weights: new Int32Array(size).fill(1 << BITS), most: 1 };
}

function toFixed(value) {
  return Math.trunc(value * (1 << BITS) + (value < 0 ? -0.5 : 0.5));
}

function bicubic(x) {
  const a = -0.5, t = Math.abs(x);
  if (t < 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
  return t < 2 ? (((t - 5) * t + 8) * t - 4) * a : 0;
}

/** pixel_values [3, size, size] float32 of RGB bytes, each step rounded to float32 as numpy does. */
export function normalise(rgb, mean, std) {
  const plane = rgb.length / 3, values = new Float32Array(rgb.length), round = Math.fround;
  for (let channel = 0; channel < 3; channel++) {
    const middle = round(mean[channel]), spread = round(std[channel]);
    for (let i = 0; i < plane; i++) {
      values[channel * plane + i] = round(round(rgb[i * 3 + channel] / 255) - middle) / spread;
    }
  }
  return values;
}
