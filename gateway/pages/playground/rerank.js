/** Reranks documents by a query, and shows which ones moved. */

import { count, find, isStill, lines, make, unseen } from "./dom.js";
import { chosen } from "./models.js";
import * as panel from "./panel.js";

const EXAMPLE = {
  query: "How do I play a shell like a trumpet?",
  documents: [
    "Sea shells wash up on the beach after a storm.",
    "Music lessons for adults begin in September, on Tuesday evenings.",
    "To make a necklace, drill a hole in each shell and thread it.",
    "Brass is an alloy of copper and zinc.",
    "Cut off the tip of a conch, press your lips to the hole and blow: it sounds like a horn.",
    "A conch is a large sea snail with a spiral shell.",
  ],
};

const section = find("#rerank");
const query = find("#query");
const documents = find("#documents");

export function listen() {
  find("[data-do=clear]", section).onclick = () => {
    query.value = documents.value = "";
    reset();
    query.focus();
  };
  find("[data-do=example]", section).onclick = example;
  const reset = panel.listen(section, prepare, (param) => {
    const place = /^documents\[(\d+)\]/.exec(param)?.[1];
    return place === undefined ? "" : `document ${Number(place) + 1}`;
  });
}

/** Fill in a useful example. */
export function example() {
  query.value = EXAMPLE.query;
  documents.value = EXAMPLE.documents.join("\n");
}

function prepare() {
  const texts = lines(documents.value);
  if (!query.value.trim()) throw new RangeError("Enter a query.");
  if (!texts.length) throw new RangeError("Enter at least one document.");
  return {
    path: "v1/rerank",
    body: { model: chosen("rerank")?.id, query: query.value, documents: texts, return_documents: false },
    show: (answer, ms) => show(texts, answer, ms),
  };
}

function show(texts, answer, ms) {
  const results = answer.results;
  const first = results[0].index + 1;
  const items = draw(texts, results);
  requestAnimationFrame(() => move(items, results));
  return {
    summary:
      `${count(texts.length, "document")} in ${Math.round(ms)} ms, ${count(answer.usage.total_tokens, "token")}. ` +
      (first === 1 ? "Document 1 stays first." : `Document ${first} is now first.`),
    outcome: make("ol", { className: "ranking" }, ...items),
  };
}

function draw(texts, results) {
  const scores = results.map((result) => result.relevance_score);
  const low = Math.min(0, ...scores); // cosines may be below 0, and logits are of any size
  const high = Math.max(1, ...scores);
  return results.map(({ index, relevance_score: score }, place) => {
    const fill = make("span", { className: "bar-fill" });
    fill.style.setProperty("--t", (score - low) / (high - low));
    return make(
      "li",
      {},
      make("span", { className: "place", "aria-hidden": "true" }, String(place + 1)),
      make("p", { className: "words" }, texts[index]),
      make("span", { className: "score" }, unseen("score "), score.toFixed(3)),
      make("span", { className: "bar-track", "aria-hidden": "true" }, fill),
      moved(index, place),
    );
  });
}

function moved(from, to) {
  if (from === to) return make("span", { className: "moved" }, "unchanged");
  const isUp = from > to;
  return make(
    "span",
    { className: isUp ? "moved up" : "moved" },
    make("span", { "aria-hidden": "true" }, isUp ? "↑ " : "↓ "),
    unseen(isUp ? "up " : "down "),
    `from ${from + 1}`,
  );
}

/** Animate each document from its previous place. */
function move(items, results) {
  if (isStill()) return;
  const tops = items.map((item) => item.offsetTop);
  items.forEach((item, place) => {
    const from = tops[results[place].index] - tops[place];
    item.animate([{ transform: `translateY(${from}px)` }, { transform: "none" }], { duration: 600, easing: "cubic-bezier(0.3, 0, 0.1, 1)", fill: "backwards" });
  });
}
