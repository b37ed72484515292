/** The state of the server, polled every few seconds while the page is visible. */

import { ask } from "./api.js";
import { find, make, say } from "./dom.js";
import { parse } from "./metrics.js";
import * as models from "./models.js";

const PAUSE_MS = 2_000;
const TIMEOUT_MS = 5_000;

const GAUGES = {
  conch_waiting_tokens: "tokens waiting",
  conch_in_flight_tokens: "tokens at Triton",
  conch_tokens_per_second: "tokens per second",
};

let hasMetrics = true;

/** Keep the page up to date with the server. */
export async function watch() {
  let before = "";
  for (;;) {
    if (!document.hidden) {
      const { state, text } = await health();
      if (state === "ready" && before !== "ready") await models.load();
      before = state;
      const line = find("#health");
      line.dataset.state = state;
      say(line, text);
      draw(state === "gone" ? [] : await metrics(), state);
    }
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
}

async function health() {
  try {
    const response = await ask("health/ready", { timeout_ms: TIMEOUT_MS });
    const { status, reason } = await response.json();
    if (status === "ready") return { state: "ready", text: "Ready" };
    return { state: "not ready", text: `Not ready: ${reason ?? response.status}` };
  } catch {
    return { state: "gone", text: "The server does not respond. Retrying…" };
  }
}

async function metrics() {
  if (!hasMetrics || !models.all().length) return [];
  try {
    const response = await ask("metrics", { timeout_ms: TIMEOUT_MS });
    hasMetrics = response.status !== 404;
    return response.ok ? parse(await response.text()) : [];
  } catch {
    return [];
  }
}

/** Whether a gauge belongs to a model: an image-text model is two models in Triton, NAME-text and NAME-image. */
function isOf(label, id) {
  if (models.all().some((model) => model.id === label)) return label === id;
  return label === `${id}-text` || label === `${id}-image`;
}

function draw(samples, state) {
  const cards = models.all().map((model) => card(model, samples.filter(({ labels }) => isOf(labels.model, model.id)), state));
  const list = find("#model-list");
  // Replace only what changed, so that screen readers keep their place.
  if (cards.length !== list.children.length) list.replaceChildren(...cards);
  else cards.forEach((card, i) => card.isEqualNode(list.children[i]) || list.children[i].replaceWith(card));
  say(find("#models-hint"), cards.length && !hasMetrics ? "This server has no /metrics, so its queues are unknown." : "");
}

function card(model, samples, state) {
  const values = (name) => samples.filter((sample) => sample.name === name).map((sample) => sample.value);
  const ready = values("conch_model_ready");
  const isReady = ready.length ? ready.every((value) => value === 1) : state === "ready";
  const words = { gone: "no response", "not ready": "not ready", ready: "ready" };
  const itsState = state === "gone" ? "gone" : isReady ? "ready" : "not ready";
  const numbers = Object.entries(GAUGES).flatMap(([name, label]) => {
    const found = values(name);
    if (!found.length) return [];
    const sum = Math.round(found.reduce((a, b) => a + b));
    const isKnown = sum > 0 || name !== "conch_tokens_per_second"; // 0 until the model has had work
    return [make("dt", {}, label), make("dd", {}, isKnown ? sum.toLocaleString("en") : "–")];
  });
  return make(
    "li",
    {},
    make("h3", {}, model.id),
    make("p", { className: "hint" }, models.about(model)),
    make("p", { className: "state", "data-state": itsState }, words[itsState]),
    ...(numbers.length ? [make("dl", {}, ...numbers)] : []),
  );
}
