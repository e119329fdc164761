// Beam search over next-token scores for one photo; equal to Python's.

/**
 * Return the best text after `prompt` (ids): { ids, score }, the new ids and their mean log-probability.
 * stepper.start(prompt) -> scores [V]; stepper.step(ids, rows) -> scores [R, V] after the newest id of each row, where
 * row i continues the previous row rows[i]. Lengths include the prompt and the end token.
 */
export async function beamSearch(stepper, prompt, { beams = 3, minLength = 5, maxLength = 20, end }) {
  let rows = [{ ids: prompt, logprobs: [], total: 0 }];
  const finished = new FinishedTexts(beams, prompt.length);
  let scores = await stepper.start(prompt);
  for (;;) {
    const ranked = rankContinuations(scores, rows, 2 * beams, rows[0].ids.length < minLength ? end : -1);
    const length = rows[0].ids.length;
    rows = splitFinished(ranked, rows, beams, end, finished);
    if (finished.isDone(ranked[0].total, length)) return finished.best();
    if (rows[0].ids.length === maxLength) break;
    scores = await stepper.step(rows.map((row) => row.ids.at(-1)), rows.map((row) => row.from));
  }
  rows.forEach((row) => finished.add(row, row.total / row.ids.length));
  return finished.best();
}

/** Return the k best continuations of all rows, best first; ties prefer the earlier row and the lower id. */
function rankContinuations(scores, rows, k, banned) {
  const size = scores.length / rows.length;
  const all = rows.flatMap((row, from) => {
    const rowScores = scores.subarray(from * size, (from + 1) * size);
    const normalizer = logSumExp(rowScores);
    return topIndices(rowScores, k, banned).map((id) => {
      const logprob = rowScores[id] - normalizer;
      return { from, id, logprob, total: (id === banned ? -Infinity : logprob) + row.total };
    });
  });
  return all.sort((a, b) => b.total - a.total).slice(0, k);
}

/** Move continuations that end to the finished texts; return the n best others. */
function splitFinished(ranked, rows, n, end, finished) {
  const continued = [];
  for (const [rank, { from, id, logprob, total }] of ranked.entries()) {
    const row = rows[from];
    const longer = { ids: [...row.ids, id], logprobs: [...row.logprobs, logprob], total, from };
    if (id !== end) continued.push(longer);
    else if (rank < n) finished.add(longer, total / row.ids.length); // without the end token
    if (continued.length === n) break;
  }
  return continued;
}

/** The best finished texts by total log-probability divided by length. */
class FinishedTexts {
  constructor(size, promptLength) {
    this.size = size;
    this.promptLength = promptLength;
    this.texts = [];
  }

  add({ ids, logprobs }, norm) {
    const score = logprobs.reduce((sum, value) => sum + value, 0) / Math.max(1, logprobs.length);
    this.texts.push({ norm, ids: ids.slice(this.promptLength), score });
    this.texts.sort((a, b) => b.norm - a.norm);
    this.texts.length = Math.min(this.texts.length, this.size);
  }

  isDone(total, length) {
    return this.texts.length === this.size && this.texts.at(-1).norm >= total / length;
  }

  best() {
    const { ids, score } = this.texts[0];
    return { ids, score };
  }
}

function logSumExp(values) {
  const peak = values.reduce((a, b) => Math.max(a, b), -Infinity);
  return peak + Math.log(values.reduce((sum, value) => sum + Math.exp(value - peak), 0));
}

/** Return the indices of the k largest values, the banned index only if there are not enough others. */
function topIndices(values, k, banned) {
  const best = [];
  const valueAt = (index) => (index === banned ? -Infinity : values[index]);
  for (let index = 0; index < values.length; index++) {
    const value = valueAt(index);
    if (best.length === k && !(value > valueAt(best[k - 1]))) continue;
    let position = Math.min(best.length, k - 1);
    for (; position > 0 && value > valueAt(best[position - 1]); position--) best[position] = best[position - 1];
    best[position] = index;
  }
  return best;
}
