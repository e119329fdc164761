// Beam search over the scores of the next token, for one photo: the same captions as Python's.

/**
 * The best text after `prompt` (ids): { ids, score }, new ids only, score their mean log-probability.
 * stepper.start(prompt) -> scores [V]; stepper.step(ids, rows) -> scores [R, V] after the newest id of each row, row i
 * continuing what row rows[i] was. Lengths count all ids, prompt and end included.
 */
export async function beamSearch(stepper, prompt, { beams = 3, minLength = 5, maxLength = 20, end }) {
  let rows = [{ ids: prompt, logprobs: [], total: 0 }];
  const found = new Finished(beams, prompt.length);
  let scores = await stepper.start(prompt);
  for (;;) {
    const ranked = candidates(scores, rows, 2 * beams, rows[0].ids.length < minLength ? end : -1);
    const length = rows[0].ids.length;
    rows = sortOut(ranked, rows, beams, end, found);
    if (found.isDone(ranked[0].total, length)) return found.best();
    if (rows[0].ids.length === maxLength) break;
    scores = await stepper.step(rows.map((row) => row.ids.at(-1)), rows.map((row) => row.from));
  }
  rows.forEach((row) => found.add(row, row.total / row.ids.length));
  return found.best();
}

/** The k best continuations of all rows, best first; of equals the earlier row and the lower id. */
function candidates(scores, rows, k, banned) {
  const size = scores.length / rows.length;
  const all = rows.flatMap((row, from) => {
    const own = scores.subarray(from * size, (from + 1) * size);
    const level = logSumExp(own);
    return top(own, k, banned).map((id) => {
      const logprob = own[id] - level;
      return { from, id, logprob, total: (id === banned ? -Infinity : logprob) + row.total };
    });
  });
  return all.sort((a, b) => b.total - a.total).slice(0, k);
}

/** Candidates that end become finished texts; n others go on. */
function sortOut(ranked, rows, n, end, found) {
  const goingOn = [];
  for (const [place, { from, id, logprob, total }] of ranked.entries()) {
    const row = rows[from];
    const longer = { ids: [...row.ids, id], logprobs: [...row.logprobs, logprob], total, from };
    if (id !== end) goingOn.push(longer);
    else if (place < n) found.add(longer, total / row.ids.length); // the end does not count
    if (goingOn.length === n) break;
  }
  return goingOn;
}

/** The n best finished texts by total log-probability a token. */
class Finished {
  constructor(size, prompt) {
    this.size = size;
    this.prompt = prompt;
    this.texts = [];
  }

  add({ ids, logprobs }, norm) {
    const score = logprobs.reduce((sum, value) => sum + value, 0) / Math.max(1, logprobs.length);
    this.texts.push({ norm, ids: ids.slice(this.prompt), score });
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

/** Places of the k largest values, the banned place only where there are not enough others. */
function top(values, k, banned) {
  const best = [];
  const of = (place) => (place === banned ? -Infinity : values[place]);
  for (let place = 0; place < values.length; place++) {
    const value = of(place);
    if (best.length === k && !(value > of(best[k - 1]))) continue;
    let at = Math.min(best.length, k - 1);
    for (; at > 0 && value > of(best[at - 1]); at--) best[at] = best[at - 1];
    best[at] = place;
  }
  return best;
}
