/** The curl commands of the last calls. */

import { find, say } from "./dom.js";

const UNSEEN = /[\u007f-\u009f\u2028-\u202e\u2066-\u2069]/g; // characters that control a terminal or reorder its text
const KEY = "$CONCH_API_KEY";
const LONG = 200; // characters of a data: URI that are shown

/**
 * A command for a shell. The body is a here-document: it needs no escaping and may be long.
 *
 * @param {boolean} withKey whether the server requires a key; the command uses the shell's $CONCH_API_KEY
 */
export function command(path, body, withKey) {
  const key = withKey ? `\n  -H "Authorization: Bearer ${KEY}" \\` : "";
  const url = new URL(path, document.baseURI).href.replaceAll("'", "%27"); // a host name may contain a quote
  const json = JSON.stringify(body, null, 2).replace(UNSEEN, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
  return `curl '${url}' \\${key}\n  -H 'Content-Type: application/json' --data-binary @- <<'JSON'\n${json}\nJSON\n`;
}

/** Show commands below a result. Copying includes what is shortened on screen. */
export function show(details, commands) {
  const text = commands.join("\n");
  const shown = text.replace(/"(data:[^"]*)"/g, (whole, uri) => (uri.length > LONG ? `"${uri.slice(0, LONG)}…"` : whole));
  const hint = find(".hint", details);
  find("pre", details).textContent = shown;
  say(find("summary", details), commands.length > 1 ? `${commands.length} curl commands` : "curl command");
  const notes = [
    text.includes(KEY) ? "Set CONCH_API_KEY to your key first." : "",
    shown === text ? "" : "Images are shortened here. Copy includes them in full.",
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
  // Browsers have no clipboard API over plain HTTP from another machine.
  const area = document.createElement("textarea");
  const focused = document.activeElement;
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
  focused?.focus();
}
