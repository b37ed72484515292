/** Fields for images: selected, dropped or pasted. */

import { count, find, make, say } from "./dom.js";

const SIDE = 512; // pixels of the longer side of a rasterised drawing

const fields = [];

/** The innermost field whose part of the page contains an element, if any. */
const at = (element) => fields.findLast((field) => field.zone.contains(element));

export const thumbnail = ({ url, name }, alt = name) => make("img", { className: "thumbnail", src: url, alt, title: name });

/**
 * Fill an empty element with a field for images.
 *
 * @param {HTMLElement} root
 * @param {{label: string, zone: HTMLElement, most?: number, changed?: () => void}} options `zone` is where images may be
 *   dropped and pasted, and contains those of later fields that are inside it; a new image replaces the first of `most`
 */
export function field(root, { label, zone, most = Infinity, changed = () => {} }) {
  const id = (name) => `${root.id}-${name}`;
  const noun = most === 1 ? "an image" : "images";
  const list = make("ul", { id: id("list"), className: "pictures" });
  const input = make("input", { id: id("files"), type: "file", accept: "image/*", multiple: most > 1, "aria-describedby": id("hint") });
  const hint = make("p", { id: id("hint"), className: "hint", role: "status" });
  const leftOut = make("p", { id: id("left-out"), className: "hint", role: "status" });
  const drop = make("label", { className: "drop" }, input, make("span", {}, make("b", {}, `Choose ${noun}`), `, or drop or paste ${most === 1 ? "one" : "them"}`));
  root.setAttribute("role", "group");
  root.setAttribute("aria-labelledby", id("label"));
  root.append(make("span", { id: id("label"), className: "label" }, label), list, drop, hint, leftOut);

  let pictures = []; // {name, url, text}: data: URIs, as the API takes them, and the text to read with each
  let reason = ""; // why images are ignored, if they are
  let hasTexts = false;

  function set(others) {
    pictures = others;
    draw();
    say(hint, "");
    changed();
  }

  function draw() {
    if (pictures.length) root.hidden = false;
    list.classList.toggle("left-out", reason !== "");
    list.classList.toggle("with-texts", hasTexts);
    say(leftOut, pictures.length ? reason : "");
    list.replaceChildren(...pictures.map((picture) => make("li", {}, thumbnail(picture), ...(hasTexts ? [caption(picture)] : []), remover(picture))));
  }

  function caption(picture) {
    const written = make("input", { type: "text", value: picture.text, placeholder: "Text with it, if any", "aria-label": `Text to read together with ${picture.name}`, autocomplete: "off" });
    written.oninput = () => {
      picture.text = written.value;
    };
    return written;
  }

  function remover(picture) {
    const remove = make("button", { type: "button", "aria-label": `Remove ${picture.name}`, title: "Remove" }, "×");
    remove.onclick = () => {
      const place = pictures.indexOf(picture);
      set(pictures.filter((one) => one !== picture));
      (list.querySelectorAll("button")[Math.min(place, pictures.length - 1)] ?? input).focus();
      say(hint, `${picture.name} removed.`);
    };
    return remove;
  }

  const made = {
    zone,
    root,
    all: () => (reason ? [] : pictures),
    has: () => pictures.length > 0,
    clear: () => set([]),

    /** Add files, and name those that are not images. */
    async add(files) {
      const read = await Promise.allSettled(files.map(readPicture));
      const added = read.filter((one) => one.status === "fulfilled").map((one) => one.value);
      const refused = files.filter((_, i) => read[i].status === "rejected").map((file) => file.name);
      set([...pictures, ...added].slice(-most));
      const parts = [];
      if (added.length) parts.push(`${count(added.length, "image")} added.`);
      if (refused.length) parts.push(`Not an image: ${refused.join(", ")}.`);
      say(hint, parts.join(" "));
    },

    /** Replace the images with example drawings of this page. */
    async showExamples(names, side = SIDE) {
      set(await Promise.all(names.map(async (name) => ({ name, url: await rasterise(`pages/examples/${name}.svg`, side), text: "" }))));
    },

    /**
     * Show whether the selected model accepts images.
     *
     * @param {string} why it does not; "" if it does
     * @param {boolean} withTexts whether it reads a text together with an image
     */
    setTaken(why, withTexts = false) {
      reason = why;
      hasTexts = withTexts;
      root.hidden = why !== "" && !pictures.length;
      draw();
    },
  };
  input.onchange = () => {
    made.add([...input.files]);
    input.value = "";
  };
  fields.push(made);
  return made;
}

async function readPicture(file) {
  if (!file.type.startsWith("image/")) throw new TypeError("no picture");
  const url = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = reject;
    reader.readAsDataURL(file);
  });
  return { name: file.name, url: file.type === "image/svg+xml" ? await rasterise(url, SIDE) : url, text: "" };
}

/** The API does not accept SVG, so the browser rasterises it. */
async function rasterise(url, side) {
  const image = make("img", { src: url });
  await image.decode();
  const scale = side / Math.max(image.naturalWidth, image.naturalHeight);
  const [width, height] = [image.naturalWidth, image.naturalHeight].map((size) => Math.max(1, Math.round(size * scale)));
  const canvas = make("canvas", { width, height });
  canvas.getContext("2d").drawImage(image, 0, 0, width, height);
  return canvas.toDataURL("image/png");
}

function mark(target) {
  for (const field of fields) field.root.classList.toggle("dropping", field === target);
}

/** Listen for files. Those pasted outside of all fields are added to the first. */
export function listen() {
  document.addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files];
    if (!files.length) return;
    event.preventDefault();
    (at(event.target) ?? fields[0]).add(files);
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    mark(at(event.target));
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) mark();
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    mark();
    const files = [...event.dataTransfer.files];
    if (files.length) at(event.target)?.add(files);
  });
}
