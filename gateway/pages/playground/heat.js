/** A heat map: a table of similarities, coloured from 0 to 1. */

import { make, unseen } from "./dom.js";

/**
 * A table with its colour scale.
 *
 * @param {number[][]} values
 * @param {Node[]} rows names, as are the columns
 * @param {{caption: string, corner: string, title: (i: number, j: number) => string, isBest?: (i: number, j: number) => boolean}} words
 */
export function draw(values, rows, columns, { caption, corner, title, isBest = () => false }) {
  const head = make("tr", {}, make("th", { scope: "col" }, unseen(corner)), ...columns);
  const body = values.map((row, i) => make("tr", {}, rows[i], ...row.map((value, j) => cell(value, i, j, title(i, j), isBest(i, j)))));
  const table = make(
    "table",
    {},
    make("caption", { className: "unseen" }, caption),
    make("thead", {}, head),
    make("tbody", {}, ...body),
  );
  const scroll = make("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": caption }, table);
  return make("div", { className: "heat" }, scroll, scale());
}

function cell(value, i, j, title, isBest) {
  const td = make("td", { title: `${title}: ${value.toFixed(4)}`, className: isBest ? "best" : "" }, plain(value));
  if (isBest) td.append(unseen(" (best)"));
  td.style.setProperty("--t", Math.min(1, Math.max(0, value)).toFixed(4));
  td.style.setProperty("--order", i + j);
  return td;
}

/** Two decimals, and no minus sign before zero. */
const plain = (value) => value.toFixed(2).replace(/^-(0\.00)$/, "$1");

/** The colours from the lowest to the highest value, and what these are. */
export function scale(low = "0 or less", high = "1 (identical)") {
  const steps = Array.from({ length: 48 }, (_, i) => {
    const step = make("i");
    step.style.setProperty("--t", i / 47);
    return step;
  });
  return make("p", { className: "scale" }, make("span", {}, low), make("div", { "aria-hidden": "true" }, ...steps), make("span", {}, high));
}
