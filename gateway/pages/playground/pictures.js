/** The images to embed: selected, dropped or pasted. */

import { count, find, make, say } from "./dom.js";

const SIDE = 128; // pixels of a rasterised drawing

let pictures = []; // {name, url}: data: URIs, as the API takes them

const list = find("#picture-list");
const hint = find("#pictures-hint");

export const all = () => pictures;

/** Show whether the selected model accepts images. */
export function setTaken(model) {
  const isTaken = !model || model.input_modalities.includes("image");
  list.classList.toggle("left-out", !isTaken);
  say(find("#pictures-left-out"), isTaken || !pictures.length ? "" : `${model.id} accepts text only. The images are ignored.`);
}

export const clear = () => set([]);

function set(others) {
  pictures = others;
  draw();
  say(hint, "");
  find("#files").dispatchEvent(new CustomEvent("pictures"));
}

/** Add files, and name those that are not images. */
async function add(files) {
  const read = await Promise.allSettled(files.map(readPicture));
  const added = read.filter((one) => one.status === "fulfilled").map((one) => one.value);
  const refused = files.filter((_, i) => read[i].status === "rejected").map((file) => file.name);
  set([...pictures, ...added]);
  const parts = [];
  if (added.length) parts.push(`${count(added.length, "image")} added.`);
  if (refused.length) parts.push(`Not an image: ${refused.join(", ")}.`);
  say(hint, parts.join(" "));
}

/** Replace the images with example drawings of this page. */
export async function showExamples(names) {
  set(await Promise.all(names.map(async (name) => ({ name, url: await rasterise(`pages/examples/${name}.svg`) }))));
}

async function readPicture(file) {
  if (!file.type.startsWith("image/")) throw new TypeError("no picture");
  const url = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = reject;
    reader.readAsDataURL(file);
  });
  return { name: file.name, url: file.type === "image/svg+xml" ? await rasterise(url) : url };
}

/** The API does not accept SVG, so the browser rasterises it. */
async function rasterise(url) {
  const image = make("img", { src: url, width: SIDE, height: SIDE });
  await image.decode();
  const canvas = make("canvas", { width: SIDE, height: SIDE });
  canvas.getContext("2d").drawImage(image, 0, 0, SIDE, SIDE);
  return canvas.toDataURL("image/png");
}

export const thumbnail = ({ url, name }, alt = name) => make("img", { className: "thumbnail", src: url, alt, title: name });

function draw() {
  list.replaceChildren(
    ...pictures.map((picture) => {
      const remove = make("button", { type: "button", "aria-label": `Remove ${picture.name}`, title: "Remove" }, "×");
      remove.onclick = () => {
        const place = pictures.indexOf(picture);
        set(pictures.filter((one) => one !== picture));
        (list.querySelectorAll("button")[Math.min(place, pictures.length - 1)] ?? find("#files")).focus();
        say(hint, `${picture.name} removed.`);
      };
      return make("li", {}, thumbnail(picture), remove);
    }),
  );
}

/** Listen for files. */
export function listen() {
  const section = find("#compare");
  const field = find("#pictures");
  const input = find("#files");
  input.onchange = () => {
    add([...input.files]);
    input.value = "";
  };
  document.addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files];
    if (!files.length) return;
    event.preventDefault();
    add(files);
  });
  for (const kind of ["dragover", "drop"]) document.addEventListener(kind, (event) => event.preventDefault());
  section.addEventListener("dragover", () => field.classList.add("dropping"));
  section.addEventListener("dragleave", (event) => {
    if (!section.contains(event.relatedTarget)) field.classList.remove("dropping");
  });
  section.addEventListener("drop", (event) => {
    field.classList.remove("dropping");
    if (event.dataTransfer.files.length) add([...event.dataTransfer.files]);
  });
}
