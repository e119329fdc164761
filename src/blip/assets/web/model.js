// BLIP on onnxruntime-web: captions and match scores of a photo, with the graphs of `blip export`.

import * as ort from "./ort/ort.wasm.min.mjs";
import { prepare } from "./image.js";
import { beamSearch } from "./beam_search.js";
import { Tokenizer } from "./tokenizer.js";

const WEIGHTS = "model.safetensors";
const MAX_TEXT_LENGTH = 35; // ids of a text to match, as in `blip match`

/** Load a model from bytes by path, as returned by `download`. */
export async function loadModel(files) {
  ort.env.wasm.numThreads = 1; // more threads need headers that a plain file server does not send
  ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
  ort.env.wasm.wasmBinary = files.get("ort/ort-wasm-simd-threaded.wasm");
  const read = (name) => new TextDecoder().decode(files.get(`model/${name}`));
  const config = JSON.parse(read("config.json"));
  const graphs = {};
  for (const name of ["vision", "cross", "decoder", "text", "match"]) {
    const bytes = files.get(`model/${name}.onnx`);
    if (bytes) graphs[name] = await openGraph(bytes, files.get(`model/${WEIGHTS}`));
  }
  return new Model(config, new Tokenizer(read("vocab.txt"), config.text), graphs);
}

function openGraph(graph, weights) {
  return ort.InferenceSession.create(graph, { externalData: [{ path: WEIGHTS, data: weights }] });
}

class Model {
  constructor(config, tokenizer, graphs) {
    this.config = config;
    this.tokenizer = tokenizer;
    this.graphs = graphs;
    this.canMatch = "match" in graphs;
  }

  /** Encode a photo: { image_embeds, image_features }, the input of `caption` and `match`. */
  async encode(blob) {
    const size = this.config.vision.image_size;
    const values = await prepare(blob, { size, mean: this.config.image_mean, std: this.config.image_std });
    return this.graphs.vision.run({ pixel_values: new ort.Tensor("float32", values, [1, 3, size, size]) });
  }

  /** Caption by beam search with three beams: { text, score }; score is the mean log-probability per token. */
  async caption(encoded) {
    const { text, prompt } = this.config;
    const stepper = new DecoderStepper(this.graphs.decoder, await this.graphs.cross.run({ source: encoded.image_embeds }), text);
    const ids = [text.dec_id, ...this.tokenizer.wordIds(prompt)];
    const result = await beamSearch(stepper, ids, { end: text.sep_id });
    return { text: this.tokenizer.decode(result.ids), score: result.score };
  }

  /** Match scores of a text: { itm, itc }, the match probability and the cosine. */
  async match(encoded, text) {
    const { cls_id, enc_id } = this.config.text, ids = this.tokenizer.encode(text, cls_id, MAX_TEXT_LENGTH);
    const mask = ids.map(() => 1), shape = [1, ids.length], matchShape = [1, 1, ids.length];
    const textOutput = await this.graphs.text.run({ input_ids: int64(ids, shape), attention_mask: int64(mask, shape) });
    const matchOutput = await this.graphs.match.run({
      input_ids: int64([enc_id, ...ids.slice(1)], matchShape), attention_mask: int64(mask, matchShape),
      image_embeds: encoded.image_embeds,
    });
    const [no, yes] = matchOutput.itm_logits.data, photo = encoded.image_features.data;
    const itc = textOutput.text_features.data.reduce((sum, value, i) => sum + value * photo[i], 0);
    return { itm: 1 / (1 + Math.exp(no - yes)), itc };
  }
}

/** Decoder of one photo's caption, one step at a time; stores the keys and values of previous steps. */
class DecoderStepper {
  constructor(graph, cross, text) {
    const empty = new ort.Tensor("float32", new Float32Array(0), [1, text.num_heads, 0, text.width / text.num_heads]);
    this.graph = graph;
    this.cross = cross;
    this.names = Array.from({ length: text.num_layers }, (_, i) => [`keys_${i}`, `values_${i}`]).flat();
    this.past = Object.fromEntries(this.names.map((name) => [`past_${name}`, empty]));
  }

  start(prompt) {
    return this.run(prompt, [1, 1, prompt.length], [0]);
  }

  step(ids, rows) {
    return this.run(ids, [1, ids.length, 1], rows);
  }

  async run(ids, shape, rows) {
    const feeds = { ids: int64(ids, shape), rows: int64(rows, [1, rows.length]), ...this.past, ...this.cross };
    const outputs = await this.graph.run(feeds);
    this.past = Object.fromEntries(this.names.map((name) => [`past_${name}`, outputs[name]]));
    return outputs.scores.data;
  }
}

function int64(values, shape) {
  return new ort.Tensor("int64", BigInt64Array.from(values, BigInt), shape);
}
