/** The part of Prometheus' text format that gauges need. */

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;
const ESCAPES = { "\\n": "\n", '\\"': '"', "\\\\": "\\" };

/** @returns {{name: string, labels: object, value: number}[]} */
export function parse(text) {
  return text.split("\n").flatMap((line) => {
    const [, name, labels = "", value] = LINE.exec(line) ?? [];
    if (!name) return [];
    const pairs = [...labels.matchAll(LABEL)].map(([, key, text]) => [key, text.replace(/\\[n"\\]/g, (escape) => ESCAPES[escape])]);
    return [{ name, labels: Object.fromEntries(pairs), value: Number(value) }];
  });
}
