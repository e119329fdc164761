// The scores of texts as rows of the table.

const table = document.querySelector("#scores");

/** rows: { text, itm, itc } in the order of the texts. */
export function show(rows) {
  table.tBodies[0].replaceChildren(...rows.map(rowOf));
  table.hidden = false;
}

export function clear() {
  table.hidden = true;
}

function rowOf({ text, itm, itc }) {
  const row = document.createElement("tr");
  const name = Object.assign(document.createElement("th"), { scope: "row", textContent: text });
  const chance = cell(itm, `${(100 * itm).toFixed(1)} %`);
  chance.append(bar(itm));
  row.append(name, chance, cell(itc, itc.toFixed(3).replace("-", "\u2212")));
  return row;
}

function cell(value, shown) {
  const data = Object.assign(document.createElement("data"), { value: String(value), textContent: shown });
  const found = document.createElement("td");
  found.append(data);
  return found;
}

function bar(share) {
  const outer = document.createElement("div"), inner = document.createElement("div");
  outer.className = "bar";
  outer.ariaHidden = "true";
  inner.style.width = `${100 * share}%`;
  outer.append(inner);
  return outer;
}
