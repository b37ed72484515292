/** The similarity of texts and images: a heat map of the cosines of their embeddings. */

import { count, find, lines, make, quote, unseen } from "./dom.js";
import * as heat from "./heat.js";
import { chosen, onSelect, readsTogether, takesImages, takesTexts } from "./models.js";
import * as panel from "./panel.js";
import * as pictures from "./pictures.js";
import { cosines, decode } from "./vectors.js";

const DRAWING = 128; // pixels of the side of an example
const MOST = 50; // inputs in a table; the API accepts 2,048

const EXAMPLE = {
  texts: [
    "I love you with all my heart",
    "a slice of cheese pizza",
    "it is raining, take an umbrella",
    "a rocket flying to the moon",
    "a sailing boat on the sea",
  ],
  pictures: ["heart", "pizza", "umbrella", "rocket", "sailboat"],
};

const section = find("#compare");
const texts = find("#texts");
const images = pictures.field(find("#pictures"), { label: "Images", zone: section });

export function listen() {
  onSelect("compare", (model) => {
    images.setTaken(!model || takesImages(model) ? "" : `${model.id} accepts text only. The images are ignored.`, readsTogether(model));
  });
  find("[data-do=clear]", section).onclick = () => {
    texts.value = "";
    images.clear();
    reset();
    texts.focus();
  };
  find("[data-do=example]", section).onclick = example;
  let inputs = [];
  const reset = panel.listen(
    section,
    () => {
      const read = readInputs();
      const body = request(read);
      inputs = read;
      return async (ask) => show(read, await ask("v1/embeddings", body));
    },
    (param) => {
      const input = inputs[/^input\[(\d+)\]/.exec(param)?.[1]];
      return input ? quote(input.name) : "";
    },
  );
}

/** Fill in a useful example. */
export async function example() {
  texts.value = EXAMPLE.texts.join("\n");
  await images.showExamples(EXAMPLE.pictures, DRAWING);
}

/** The texts, images, and images with a text, that the selected model accepts. */
function readInputs() {
  const model = chosen("compare");
  const written = takesTexts(model) ? lines(texts.value).map((text) => ({ name: text, value: text })) : [];
  const inputs = [...written, ...images.all().map((picture) => withPicture(picture, readsTogether(model)))];
  const takes = model?.input_modalities ?? ["text", "image"];
  if (inputs.length < 2) throw new RangeError(`Add at least two inputs (${takes.join(" or ")}) to compare.`);
  if (inputs.length > MOST) throw new RangeError(`${inputs.length} inputs: this page compares up to ${MOST}. The API accepts 2,048.`);
  return inputs;
}

function withPicture(picture, withText) {
  const text = withText ? picture.text.trim() : "";
  if (!text) return { name: picture.name, value: { image: picture.url }, picture };
  return { name: `${text} + ${picture.name}`, value: { text, image: picture.url }, picture };
}

function request(inputs) {
  const body = { model: chosen("compare")?.id, input: inputs.map((input) => input.value) };
  const encoding = find("[name=encoding]:checked", section).value;
  const dimensions = find("#dimensions");
  if (encoding !== "float") body.encoding_format = encoding;
  if (dimensions.value) body.dimensions = Number(dimensions.value);
  return body;
}

function show(inputs, { answer, ms }) {
  const vectors = answer.data.map((item) => decode(item.embedding));
  const matrix = cosines(vectors);
  const pairs = matrix.flatMap((row, i) => row.slice(i + 1).map((cosine, k) => ({ cosine, i, j: i + 1 + k })));
  const best = pairs.reduce((a, b) => (b.cosine > a.cosine ? b : a));
  return {
    summary:
      `${count(inputs.length, "vector")} of ${count(vectors[0].length, "dimension")} in ${Math.round(ms)} ms, ` +
      `${count(answer.usage.total_tokens, "token")}. ` +
      `Most similar: ${quote(inputs[best.i].name)} and ${quote(inputs[best.j].name)}, ${best.cosine.toFixed(2)}.`,
    outcome: draw(inputs, matrix),
  };
}

const draw = (inputs, matrix) =>
  heat.draw(matrix, inputs.map(rowName), inputs.map(column), {
    caption: "Cosine similarity of each pair of inputs",
    corner: "Input",
    title: (i, j) => `${inputs[i].name} · ${inputs[j].name}`,
  });

const number = (i) => make("span", { className: "number", "aria-hidden": "true" }, String(i + 1));

function column(input, j) {
  const shown = input.picture ? [pictures.thumbnail(input.picture)] : [number(j), unseen(input.name)];
  return make("th", { scope: "col", title: input.name }, make("span", { className: "input-name" }, ...shown));
}

function rowName(input, i) {
  const words = make("span", { className: "words", title: input.name }, input.name);
  const mark = input.picture ? pictures.thumbnail(input.picture, "") : number(i);
  return make("th", { scope: "row" }, make("span", { className: "input-name" }, mark, words));
}
