/** What a model makes of a text: the terms of its sparse vector, the tokens that match a document's, or its labels. */

import { ApiError, call } from "./api.js";
import { count, find, make, quote, unseen } from "./dom.js";
import * as heat from "./heat.js";
import { chosen, INSPECTED } from "./models.js";
import * as panel from "./panel.js";
import { dots } from "./vectors.js";

const MOST = 60; // terms, labels, or tokens of a text that are shown

const EXAMPLE = {
  text: "How do I play a shell like a trumpet?",
  document: "Cut off the tip of a conch, press your lips to the hole and blow: it sounds like a horn.",
};

const section = find("#inspect");
const text = find("#inspected");
const other = find("#matched");
const kinds = find("#inspect-kind");

const KINDS = {
  sparse: {
    name: "terms of the sparse vector",
    path: "v1/embeddings",
    body: (model) => ({ model: model.id, input: text.value, embedding_type: "sparse" }),
    show: showTerms,
  },
  multi_vector: {
    name: "matches of tokens",
    path: "v1/embeddings",
    body: (model) => ({ model: model.id, input: text.value, task: "query", embedding_type: "multi_vector" }),
    show: showMatches,
  },
  labels: {
    name: "labels",
    path: "classify",
    body: (model) => ({ model: model.id, input: text.value, raw_scores: false, truncate: false }), // the labels by name, best first
    show: showLabels,
  },
};

const offered = (model) => Object.keys(KINDS).filter((kind) => (kind === "labels" ? model.labels : model.vectors?.includes(kind)));

export function listen() {
  find("[data-do=clear]", section).onclick = () => {
    text.value = other.value = "";
    reset();
    text.focus();
  };
  find("[data-do=example]", section).onclick = example;
  kinds.onchange = describe;
  document.addEventListener(INSPECTED, () => {
    const before = kinds.value;
    const offers = offered(chosen("inspect") ?? {});
    kinds.replaceChildren(...offers.map((kind) => make("option", { value: kind, selected: kind === before }, KINDS[kind].name)));
    describe();
  });
  const reset = panel.listen(section, prepare, (param) => (param.startsWith("input") ? "the text" : param === "document" ? "the document" : ""));
}

/** Fill in a useful example. */
export function example() {
  text.value = EXAMPLE.text;
  other.value = EXAMPLE.document;
}

function describe() {
  find("#matched-field").hidden = kinds.value !== "multi_vector";
  find(".path code", section).textContent = `POST /${KINDS[kinds.value]?.path ?? "v1/embeddings"}`;
}

function prepare() {
  const model = chosen("inspect");
  const kind = KINDS[kinds.value];
  if (!kind) throw new RangeError("This server has no model with sparse vectors, token vectors or labels.");
  if (!text.value.trim()) throw new RangeError("Enter a text.");
  if (kinds.value === "multi_vector" && !other.value.trim()) throw new RangeError("Enter a document.");
  const asked = { model, text: text.value, document: other.value };
  return { path: kind.path, body: kind.body(model), show: (answer, ms) => kind.show(answer, ms, asked) };
}

/** A sparse vector's terms, heaviest first. */
async function showTerms(answer, ms, { model }) {
  const { indices, values } = answer.data[0].embedding;
  const terms = indices.map((index, i) => ({ index, weight: values[i] })).sort((a, b) => b.weight - a.weight);
  const shown = terms.slice(0, MOST);
  const names = shown.length ? await words(model, shown.map((term) => term.index)) : [];
  return {
    summary: `${count(terms.length, "term")} in ${Math.round(ms)} ms${more(terms.length, "the heaviest")}.`,
    outcome: bars(shown.map((term, i) => ({ name: names[i], title: `token ${term.index}`, value: term.weight })), terms[0]?.weight),
  };
}

/** The words of single tokens of the model's vocabulary. */
const words = async (model, ids) =>
  (await call("decode", { model: model.id, ids: ids.map((id) => [id]), skip_special_tokens: false })).answer.map(visible);

const visible = (word) => word.trim() || "␣";

/** Say which of the two inputs the server refuses. */
function ofDocument(problem) {
  if (problem instanceof ApiError && problem.param === "input") problem.param = "document";
  throw problem;
}

/** The similarity of each token of the text, as a query, and each of the document. */
async function showMatches(answer, ms, { model, text, document }) {
  const queries = answer.data[0].embedding;
  const [given, ...spans] = await Promise.all([
    call("v1/embeddings", { model: model.id, input: document, task: "document", embedding_type: "multi_vector" }).catch(ofDocument),
    tokens(model, text, "query"),
    tokens(model, document, "document"),
  ]);
  const documents = given.answer.data[0].embedding;
  const matrix = dots(queries, documents);
  const best = matrix.map((row) => row.indexOf(Math.max(...row)));
  const score = matrix.reduce((sum, row, i) => sum + row[best[i]], 0) / matrix.length;
  const [rows, columns] = [queries, documents].map((vectors, side) => names(vectors.length, spans[side], model));
  const isLong = Math.max(queries.length, documents.length) > MOST;
  return {
    summary:
      `${count(queries.length, "token vector")} of the text and ${documents.length} of the document in ${Math.round(ms + given.ms)} ms` +
      `${isLong ? `; the first ${MOST} of each are shown` : ""}. Mean of the best matches: ${score.toFixed(3)}.`,
    outcome: heat.draw(
      matrix.slice(0, MOST).map((row) => row.slice(0, MOST)),
      rows.map((name) => make("th", { scope: "row" }, make("span", { className: "token" }, name))),
      columns.slice(0, MOST).map((name) => make("th", { scope: "col" }, make("span", { className: "token" }, name))),
      {
        caption: "Similarity of the text's tokens and the document's; the best match of each is marked",
        corner: "Token",
        title: (i, j) => `${rows[i]} · ${columns[j]}`,
        isBest: (i, j) => best[i] === j,
      },
    ),
  };
}

const tokens = async (model, inputs, purpose) =>
  (await call("tokenize", { model: model.id, inputs, prompt_name: purpose })).answer[0].map((token) => visible(token.text));

/** A name for each vector: its token, if all have one. Models expand queries, and may leave out tokens without saying which. */
function names(size, spans, model) {
  const isM3 = spans.length === size + 1 && model.vectors.includes("sparse"); // bge-m3 leaves out the first of each text
  const told = isM3 ? spans.slice(1) : spans;
  if (told.length > size) return Array.from({ length: size }, (_, i) => `vector ${i + 1}`);
  return [...told, ...Array.from({ length: size - told.length }, (_, i) => `added ${i + 1}`)];
}

/** The scores of all labels, best first. */
function showLabels(answer, ms, { text }) {
  const [scored] = answer.data;
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
