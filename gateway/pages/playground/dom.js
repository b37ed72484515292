/** Elements. Input of users and servers only becomes text: nothing here parses HTML. */

export const find = (selector, within = document) => within.querySelector(selector);

/** A new element with properties (attributes if there is no such property) and children: nodes and strings. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** Set a text only if it changes, because screen readers announce each change. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export const unseen = (text) => make("span", { className: "unseen" }, text);

/** A text as quoted in a sentence. */
export const quote = (text) => `“${text.length > 60 ? `${text.slice(0, 60).trimEnd()}…` : text}”`;

export const lines = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean);

export const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

export const isStill = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
