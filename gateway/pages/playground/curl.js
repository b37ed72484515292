/** The command that does what was just done. */

import { find, say } from "./dom.js";

const UNSEEN = /[\u007f-\u009f\u2028-\u202e\u2066-\u2069]/g; // what a terminal obeys, or shows in another order
const KEY = "$CONCH_API_KEY";
const LONG = 200; // characters of a data: URI that are shown

/**
 * A command for a shell. The body comes by a here-document, in which nothing needs to be escaped, and which may be long.
 *
 * @param {boolean} withKey whether the server asks for one; it is the shell's $CONCH_API_KEY
 */
export function command(path, body, withKey) {
  const key = withKey ? `\n  -H "Authorization: Bearer ${KEY}" \\` : "";
  const url = new URL(path, document.baseURI).href.replaceAll("'", "%27"); // a host's name may hold what a shell reads
  const json = JSON.stringify(body, null, 2).replace(UNSEEN, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
  return `curl '${url}' \\${key}\n  -H 'Content-Type: application/json' --data-binary @- <<'JSON'\n${json}\nJSON\n`;
}

/** Show a command in its place beside a result; all of it can be copied. */
export function show(details, text) {
  const shown = text.replace(/"(data:[^"]*)"/g, (whole, uri) => (uri.length > LONG ? `"${uri.slice(0, LONG)}…"` : whole));
  const hint = find(".hint", details);
  find("pre", details).textContent = shown;
  const notes = [
    text.includes(KEY) ? "Put your key into CONCH_API_KEY first." : "",
    shown === text ? "" : "Pictures are cut short here; Copy copies all of them.",
  ];
  say(hint, notes.filter(Boolean).join(" "));
  find(".copy", details).onclick = async () => {
    await copy(text);
    say(hint, "");
    requestAnimationFrame(() => say(hint, "Copied."));
  };
  details.hidden = false;
}

async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // Over plain HTTP from another machine there is no clipboard API.
  const area = document.createElement("textarea");
  const focused = document.activeElement;
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
  focused?.focus();
}
