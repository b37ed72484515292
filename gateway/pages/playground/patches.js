/** A page under a heat map: how similar its patches are to words. */

import { make, unseen } from "./dom.js";
import { scale } from "./heat.js";

const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
const best = (values) => values.reduce((a, b) => Math.max(a, b), -Infinity);

/**
 * A page, and a choice of words to show on it.
 *
 * @param {{url: string, name: string}} picture
 * @param {{start: number, rows: number, columns: number, box: number[]}[]} grids of the page's patches, as the API
 *   returns them: one, or one for each tile and then a coarse one of the whole page
 * @param {{text: string, places: number[]}[]} words of a query, and the token vectors of each
 * @param {number[][]} similarities of each token vector of the query with each of the page
 */
export async function draw(picture, grids, words, similarities) {
  const all = { text: "All words", places: similarities.map((_, i) => i) };
  const patches = patchesOf(grids);
  const scores = similarities.map((row) => best(patches.map((patch) => row[patch])));
  const choices = [all, ...words].map((word) => ({ ...word, score: mean(word.places.map((i) => scores[i])) }));
  const shown = grids.length > 1 ? grids.slice(0, -1) : grids;
  const cellsOfGrids = shown.map(cellsOf);
  const cells = cellsOfGrids.flat();
  const page = make("div", { className: "page", role: "img" }, await image(picture), ...shown.map((grid, i) => frame(grid, cellsOfGrids[i])));
  const found = make("p", { className: "hint", role: "status" });
  const colours = make("div");

  const show = (word) => {
    const values = cells.map((cell) => mean(word.places.map((i) => similarities[i][cell.vector])));
    const [low, high] = [-best(values.map((value) => -value)), best(values)];
    const first = values.indexOf(high);
    cells.forEach(({ element, where }, i) => {
      element.style.setProperty("--t", (high > low ? (values[i] - low) / (high - low) : 0).toFixed(4));
      element.classList.toggle("best", i === first);
      element.title = `${where}: ${values[i].toFixed(4)}`;
    });
    found.textContent = `${word === choices[0] ? "All words" : `“${word.text}”`}: most similar is ${cells[first].where}, with ${high.toFixed(3)}.`;
    page.setAttribute("aria-label", `${picture.name}. ${found.textContent}`);
    colours.replaceChildren(scale(low.toFixed(2), high.toFixed(2)));
  };
  show(choices[0]);
  return make("div", { className: "matches" }, choose(choices, show), found, page, colours);
}

/** Radio buttons. What the pointer is on is shown while it is there. */
function choose(choices, show) {
  let checked = choices[0];
  const labels = choices.map((word, i) => {
    const input = make("input", { type: "radio", name: "word", checked: i === 0 });
    input.onchange = () => {
      checked = word;
      show(word);
    };
    const label = make("label", {}, input, make("span", {}, word.text, make("small", {}, unseen(", score "), word.score.toFixed(2))));
    label.onpointerenter = () => show(word);
    label.onpointerleave = () => show(checked);
    return label;
  });
  return make("fieldset", { className: "words-choice" }, make("legend", {}, "Words of the query, and how well their best patches match"), ...labels);
}

const patchesOf = (grids) => grids.flatMap(({ start, rows, columns }) => Array.from({ length: rows * columns }, (_, i) => start + i));

/** The patches of a grid, row by row: the vector of each, and where it is in words. */
function cellsOf({ start, rows, columns }, tile, { length }) {
  return Array.from({ length: rows * columns }, (_, i) => {
    const [row, column] = [Math.floor(i / columns), i % columns];
    const where = `row ${row + 1}, column ${column + 1} of ${rows} × ${columns} patches`;
    return { vector: start + i, where: length > 1 ? `tile ${tile + 1}, ${where}` : where, element: make("i") };
  });
}

function frame({ columns, box: [left, top, right, bottom] }, cells) {
  const grid = make("div", { className: "patches", "aria-hidden": "true" }, ...cells.map((cell) => cell.element));
  const sides = { left, top, width: right - left, height: bottom - top };
  for (const [name, value] of Object.entries(sides)) grid.style.setProperty(name, `${100 * value}%`);
  grid.style.setProperty("--columns", columns);
  return grid;
}

async function image({ url }) {
  const shown = make("img", { src: url, alt: "" });
  await shown.decode();
  shown.style.setProperty("--ratio", shown.naturalWidth / shown.naturalHeight);
  return shown;
}
