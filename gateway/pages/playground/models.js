/** The served models: their capabilities, and which are selected. */

import { ApiError, call, hasKey, useKey } from "./api.js";
import { find, make, say } from "./dom.js";

const ROLES = {
  "text-embedding": "embeds texts",
  "image-embedding": "embeds images",
  "image-text": "embeds texts and images in one space",
  "late-interaction": "reranks documents by token similarity",
  "cross-encoder": "reranks documents together with the query",
  classifier: "labels texts",
};
const SEEING_ROLES = {
  "text-embedding": "embeds texts and images, also both together",
  "late-interaction": "reranks texts and images by token similarity",
  "cross-encoder": "reranks texts and images together with the query",
};
const RERANKERS = new Set(["late-interaction", "cross-encoder"]);

export const NO_MODEL = "No model is selected.";
export const KEY_ACCEPTED = "key-accepted";
const SELECTED = "model-selected";
/** Events of the document. The `detail` of the last is a panel's name. */

let models = [];
let isKeyAsked = false;

export const all = () => models;
export const needsKey = () => isKeyAsked;

/** The selected model of a panel, or undefined if none is known yet. */
export const chosen = (panel) => models.find((model) => model.id === select(panel).value);

export const takesTexts = (model) => !model || model.input_modalities.includes("text");
export const takesImages = (model) => model?.input_modalities.includes("image") ?? false;

/** Whether a model reads a text and an image as one input, instead of each in a tower of its own. */
export const readsTogether = (model) => takesImages(model) && model.role in SEEING_ROLES;

/** Call back with the model of a panel, or undefined, whenever it may have changed. */
export function onSelect(panel, listener) {
  document.addEventListener(SELECTED, (event) => event.detail === panel && listener(chosen(panel)));
}

const select = (panel) => find(`#${panel}-model`);

/** Load the list and fill what depends on it. Ask for a key if the server requires one. */
export async function load() {
  try {
    const { answer } = await call("v1/models");
    models = answer.data;
    if (isKeyAsked) {
      say(find("#key-hint"), "Key accepted. It stays in this page's memory until you close or reload the page.");
      document.dispatchEvent(new Event(KEY_ACCEPTED));
    }
  } catch (problem) {
    if (!(problem instanceof ApiError)) throw problem;
    if (problem.status === 401) askForKey(problem);
    return;
  }
  fill("compare", models.filter((model) => model.vectors?.includes("dense")), (model) => model.input_modalities.length > 1);
  fill("rerank", models.filter((model) => RERANKERS.has(model.role)), (model) => model.default);
  fill("inspect", models.filter((model) => model.labels || model.vectors?.some((kind) => kind !== "dense")), (model) => model.role === "late-interaction");
}

export function listen() {
  const input = find("#key");
  find("#key-form").onsubmit = (event) => {
    event.preventDefault();
    useKey(input.value);
    input.value = "";
    load();
  };
  for (const panel of ["compare", "rerank", "inspect"]) select(panel).onchange = () => describe(panel);
}

function askForKey(problem) {
  isKeyAsked = true;
  models = [];
  find("#key-form").hidden = false;
  say(find("#key-hint"), hasKey() ? `Status 401: ${problem.message}.` : "This server requires an API key. The key stays in this page's memory.");
}

/** List the models of a panel, and keep the selection if it still exists. */
function fill(panel, offered, isBest) {
  const before = select(panel).value;
  const after = offered.find((model) => model.id === before) ?? offered.find(isBest) ?? offered[0];
  select(panel).replaceChildren(...offered.map((model) => make("option", { value: model.id, selected: model === after }, model.id)));
  describe(panel);
}

function describe(panel) {
  const model = chosen(panel);
  say(find(`#${panel}-model-hint`), model ? about(model) : "This server has no model for this.");
  document.dispatchEvent(new CustomEvent(SELECTED, { detail: panel }));
  if (panel !== "compare") return;
  const sizes = model?.supported_dimensions ?? [];
  find("#dimensions-field").hidden = sizes.length < 2;
  const options = [make("option", { value: "" }, `all (${model?.dimensions ?? ""})`), ...sizes.map((size) => make("option", { value: size }, String(size)))];
  find("#dimensions").replaceChildren(...options);
}

/** A model's task and limits in words. */
export function about(model) {
  const facts = [(readsTogether(model) ? SEEING_ROLES : ROLES)[model.role] ?? model.role];
  if (model.vectors) facts.push(`${model.vectors.map((kind) => kind.replace("multi_vector", "token")).join(", ")} vectors`);
  if (model.dimensions) facts.push(`${model.dimensions} dimensions`);
  if (model.max_tokens) facts.push(`up to ${model.max_tokens.toLocaleString("en")} tokens`);
  return facts.join(" · ");
}
