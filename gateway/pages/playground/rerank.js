/** Reranks documents by a query, and shows which ones moved. */

import { count, find, isStill, lines, make, unseen } from "./dom.js";
import { chosen, NO_MODEL, onSelect, takesImages } from "./models.js";
import * as panel from "./panel.js";
import * as pictures from "./pictures.js";

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
  pictures: ["page", "sailboat", "umbrella"],
};

const section = find("#rerank");
const query = find("#query");
const documents = find("#documents");

// Images of documents first: the query's part of the page is inside theirs.
const images = pictures.field(find("#document-pictures"), { label: "Images as documents", zone: section });
const asked = pictures.field(find("#query-picture"), { label: "Image as query, alone or with the text", zone: find("#asked"), most: 1 });

let selected = "";

export function listen() {
  images.setTaken(NO_MODEL);
  asked.setTaken(NO_MODEL);
  onSelect("rerank", (model) => {
    const why = !model ? NO_MODEL : takesImages(model) ? "" : `${model.id} accepts text only. Images are ignored.`;
    images.setTaken(why);
    asked.setTaken(!why && model.role === "late-interaction" ? `Queries of ${model.id} are texts. The image is ignored.` : why);
    if (model && model.id !== selected && isExample()) example();
    selected = model?.id ?? "";
  });
  find("[data-do=clear]", section).onclick = () => {
    query.value = documents.value = "";
    images.clear();
    asked.clear();
    reset();
    query.focus();
  };
  find("[data-do=example]", section).onclick = example;
  const reset = panel.listen(section, prepare, (param) => {
    const place = /^documents\[(\d+)\]/.exec(param)?.[1];
    return place === undefined ? "" : `document ${Number(place) + 1}`;
  });
}

const isExample = () =>
  query.value === EXAMPLE.query && documents.value === EXAMPLE.documents.join("\n") && !images.has() && !asked.has();

/** Fill in a useful example. */
export async function example() {
  query.value = EXAMPLE.query;
  documents.value = EXAMPLE.documents.join("\n");
  asked.clear();
  if (takesImages(chosen("rerank"))) await images.showExamples(EXAMPLE.pictures);
  else images.clear();
}

function prepare() {
  const given = [
    ...lines(documents.value).map((text) => ({ name: text, value: text })),
    ...images.all().map((picture) => ({ name: picture.name, value: { image: picture.url }, picture })),
  ];
  const [picture] = asked.all();
  const text = query.value.trim() ? query.value : "";
  if (!text && !picture) throw new RangeError("Enter a query.");
  if (!given.length) throw new RangeError("Enter at least one document.");
  const body = {
    model: chosen("rerank")?.id,
    query: picture ? { text, image: picture.url } : text,
    documents: given.map((document) => document.value),
    return_documents: false,
  };
  return async (ask) => show(given, await ask("v1/rerank", body));
}

function show(given, { answer, ms }) {
  const results = answer.results;
  const first = results[0].index + 1;
  const items = draw(given, results);
  requestAnimationFrame(() => move(items, results));
  return {
    summary:
      `${count(given.length, "document")} in ${Math.round(ms)} ms, ${count(answer.usage.total_tokens, "token")}. ` +
      (first === 1 ? "Document 1 stays first." : `Document ${first} is now first.`),
    outcome: make("ol", { className: "ranking" }, ...items),
  };
}

function draw(given, results) {
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
      described(given[index]),
      make("span", { className: "score" }, unseen("score "), score.toFixed(3)),
      make("span", { className: "bar-track", "aria-hidden": "true" }, fill),
      moved(index, place),
    );
  });
}

function described({ name, picture }) {
  if (!picture) return make("p", { className: "words" }, name);
  return make("div", { className: "pictured" }, pictures.thumbnail(picture, ""), make("p", { className: "words" }, name));
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
