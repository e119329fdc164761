// Table of match scores.

const table = document.querySelector("#scores");

/** Show rows { text, itm, itc } in the order of the texts. */
export function show(rows) {
  table.tBodies[0].replaceChildren(...rows.map(makeRow));
  table.hidden = false;
}

export function clear() {
  table.hidden = true;
}

function makeRow({ text, itm, itc }) {
  const row = document.createElement("tr");
  const heading = Object.assign(document.createElement("th"), { scope: "row", textContent: text });
  const probability = cell(itm, `${(100 * itm).toFixed(1)} %`);
  probability.append(bar(itm));
  row.append(heading, probability, cell(itc, itc.toFixed(3).replace("-", "\u2212")));
  return row;
}

function cell(value, label) {
  const data = Object.assign(document.createElement("data"), { value: String(value), textContent: label });
  const result = document.createElement("td");
  result.append(data);
  return result;
}

function bar(fraction) {
  const outer = document.createElement("div"), inner = document.createElement("div");
  outer.className = "bar";
  outer.ariaHidden = "true";
  inner.style.width = `${100 * fraction}%`;
  outer.append(inner);
  return outer;
}
