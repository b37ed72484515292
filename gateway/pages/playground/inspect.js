/** What a model makes of a text: the terms of its sparse vector, what matches in a document or page, or its labels. */

import { ApiError } from "./api.js";
import { count, find, make, quote, unseen } from "./dom.js";
import * as heat from "./heat.js";
import { chosen, NO_MODEL, onSelect, takesImages } from "./models.js";
import * as panel from "./panel.js";
import * as patches from "./patches.js";
import * as pictures from "./pictures.js";
import { dots } from "./vectors.js";
import { decode, split, visible } from "./words.js";

const PAGE = 1024; // pixels of the longer side of the example page
const MOST = 60; // terms, labels, or tokens of a text that are shown

const EXAMPLE = {
  text: "How do I play a shell like a trumpet?",
  document: "Cut off the tip of a conch, press your lips to the hole and blow: it sounds like a horn.",
  pictures: ["page"],
};

const section = find("#inspect");
const text = find("#inspected");
const other = find("#matched");
const kinds = find("#inspect-kind");

const page = pictures.field(find("#page-picture"), { label: "Page or photo as document", zone: section, most: 1, changed: describe });

const KINDS = {
  sparse: { name: "terms of the sparse vector", path: "v1/embeddings", show: showTerms },
  multi_vector: { name: "matches of tokens", path: "v1/embeddings", show: showMatches },
  labels: { name: "labels", path: "classify", show: showLabels },
};

let selected = "";

const offered = (model) => Object.keys(KINDS).filter((kind) => (kind === "labels" ? model.labels : model.vectors?.includes(kind)));

export function listen() {
  page.setTaken(NO_MODEL);
  find("[data-do=clear]", section).onclick = () => {
    text.value = other.value = "";
    page.clear();
    reset();
    text.focus();
  };
  find("[data-do=example]", section).onclick = example;
  kinds.onchange = describe;
  onSelect("inspect", (model) => {
    const before = kinds.value;
    const offers = offered(model ?? {});
    kinds.replaceChildren(...offers.map((kind) => make("option", { value: kind, selected: kind === before }, KINDS[kind].name)));
    page.setTaken(readsPages(model) ? "" : `${model?.id} accepts text only. The image is ignored.`);
    if (model && model.id !== selected && isExample()) example();
    selected = model?.id ?? "";
    describe();
  });
  const reset = panel.listen(section, prepare, (param) => (param.startsWith("input") ? "the text" : param === "document" ? "the document" : ""));
}

/** Whether a model has vectors for the patches of images, not only one for each image. */
const readsPages = (model) => takesImages(model) && model.role !== "image-text" && offered(model).includes("multi_vector");

const isExample = () => text.value === EXAMPLE.text && other.value === EXAMPLE.document && !page.has();

/** Fill in a useful example. */
export async function example() {
  text.value = EXAMPLE.text;
  other.value = EXAMPLE.document;
  if (readsPages(chosen("inspect"))) await page.showExamples(EXAMPLE.pictures, PAGE);
  else page.clear();
}

function describe() {
  const isMatch = kinds.value === "multi_vector";
  find("#page-field").hidden = !isMatch || page.root.hidden;
  find("#matched-field").hidden = !isMatch || page.all().length > 0;
  find(".path code", section).textContent = `POST /${KINDS[kinds.value]?.path ?? "v1/embeddings"}`;
}

function prepare() {
  const model = chosen("inspect");
  const kind = KINDS[kinds.value];
  if (!kind) throw new RangeError("This server has no model with sparse vectors, token vectors or labels.");
  if (!text.value.trim()) throw new RangeError("Enter a text.");
  const [picture] = page.all();
  if (kinds.value === "multi_vector" && !picture && !other.value.trim()) throw new RangeError("Enter a document.");
  const asked = { model, text: text.value, document: other.value, picture };
  return (ask) => kind.show(asked, ask);
}

/** A sparse vector's terms, heaviest first. */
async function showTerms({ model, text }, ask) {
  const { answer, ms } = await ask("v1/embeddings", { model: model.id, input: text, embedding_type: "sparse" });
  const { indices, values } = answer.data[0].embedding;
  const terms = indices.map((index, i) => ({ index, weight: values[i] })).sort((a, b) => b.weight - a.weight);
  const shown = terms.slice(0, MOST);
  const names = (await decode(ask, model, shown.map((term) => [term.index]))).map(visible);
  return {
    summary: `${count(terms.length, "term")} in ${Math.round(ms)} ms${more(terms.length, "the heaviest")}.`,
    outcome: bars(shown.map((term, i) => ({ name: names[i], title: `token ${term.index}`, value: term.weight })), terms[0]?.weight),
  };
}

/** Say which of the two inputs the server refuses. */
function ofDocument(problem) {
  if (problem instanceof ApiError && problem.param?.startsWith("input")) problem.param = "document";
  throw problem;
}

/** The similarity of each token of the text, as a query, and each token or patch of the document. */
async function showMatches({ model, text, document, picture }, ask) {
  const body = (input, task) => ({ model: model.id, input, task, embedding_type: "multi_vector", return_tokens: true });
  const [query, given] = await Promise.all([
    ask("v1/embeddings", body(text, "query")),
    ask("v1/embeddings", body(picture ? { image: picture.url } : document, "document")).catch(ofDocument),
  ]);
  const [queries, documents] = [query, given].map(({ answer }) => answer.data[0]);
  const matrix = dots(queries.embedding, documents.embedding);
  const score = matrix.reduce((sum, row) => sum + Math.max(...row), 0) / matrix.length;
  const grids = documents.tokens.images[0] ?? [];
  const size = documents.embedding.length;
  const ofPatches = grids.reduce((sum, { rows, columns }) => sum + rows * columns, 0);
  const counted = picture ? `${size} of the image, ${ofPatches} of them of patches,` : `${size} of the document`;
  const ms = Math.round(query.ms + given.ms);
  const isLong = !grids.length && Math.max(matrix.length, size) > MOST;
  return {
    summary:
      `${count(matrix.length, "token vector")} of the text and ${counted} in ${ms} ms` +
      `${isLong ? `; the first ${MOST} of each are shown` : ""}. Mean of the best matches: ${score.toFixed(3)}.`,
    outcome: grids.length
      ? await patches.draw(picture, grids, await split(ask, model, queries.tokens.ids), matrix)
      : drawMatches(matrix, ...(await names(ask, model, queries.tokens.ids, documents.tokens.ids))),
  };
}

/** The names of two lists of tokens. */
async function names(ask, model, ...lists) {
  const known = lists.map((ids) => ids.filter((id) => id !== null));
  const texts = (await decode(ask, model, known.flat().map((id) => [id]))).map(visible);
  const of = [texts.slice(0, known[0].length), texts.slice(known[0].length)];
  return lists.map((ids, side) => ids.map((id, i) => of[side][i] ?? `added ${i - known[side].length + 1}`));
}

function drawMatches(matrix, rows, columns) {
  const best = matrix.map((row) => row.indexOf(Math.max(...row)));
  return heat.draw(
    matrix.slice(0, MOST).map((row) => row.slice(0, MOST)),
    rows.map((name) => make("th", { scope: "row" }, make("span", { className: "token" }, name))),
    columns.slice(0, MOST).map((name) => make("th", { scope: "col" }, make("span", { className: "token" }, name))),
    {
      caption: "Similarity of the text's tokens and the document's; the best match of each is marked",
      corner: "Token",
      title: (i, j) => `${rows[i]} · ${columns[j]}`,
      isBest: (i, j) => best[i] === j,
    },
  );
}

/** The scores of all labels, best first. */
async function showLabels({ model, text }, ask) {
  const { answer, ms } = await ask("classify", { model: model.id, input: text, raw_scores: false, truncate: false });
  const [scored] = answer.data; // the labels by name, best first
  return {
    summary: `${count(scored.length, "label")} in ${Math.round(ms)} ms${more(scored.length, "the best")}. ${quote(text)} is ${quote(scored[0].label)}.`,
    outcome: bars(scored.slice(0, MOST).map(({ label, score }) => ({ name: label, value: score })), 1),
  };
}

const more = (size, which) => (size > MOST ? `; ${which} ${MOST} are shown` : "");

function bars(items, most) {
  return make(
    "ol",
    { className: "bars" },
    ...items.map(({ name, title = "", value }) => {
      const fill = make("span", { className: "bar-fill" });
      fill.style.setProperty("--t", Math.max(0, value / most));
      return make(
        "li",
        { title },
        make("span", { className: "words" }, name),
        make("span", { className: "bar-track", "aria-hidden": "true" }, fill),
        make("span", { className: "score" }, unseen("weight "), value.toFixed(3)),
      );
    }),
  );
}
