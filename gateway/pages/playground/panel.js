/** What both panels do with a call: run it once at a time, say how it went, show what failed, and offer it as a curl. */

import { ApiError, call } from "./api.js";
import * as curl from "./curl.js";
import { find, make, say } from "./dom.js";
import { KEY_ACCEPTED, needsKey } from "./models.js";

/**
 * Have a form ask the API when it is sent.
 *
 * @param {HTMLElement} section
 * @param {string} path of the API
 * @param {() => {body: object, show: (answer: object, ms: number) => {summary: string, outcome: Node}}} prepare
 *   reads the form; throws an Error with what is missing
 * @param {(param: string) => string} nameOf what an error is about, in words; "" where the field's name must do
 * @returns {() => void} takes the last answer away
 */
export function listen(section, path, prepare, nameOf) {
  const form = find("form", section);
  const [summary, error, outcome, details] = [".summary", ".error", ".outcome", ".curl"].map((name) => find(name, section));
  const button = find(".primary", form);
  const nothing = [...outcome.childNodes];
  let isRunning = false;

  const reset = () => {
    say(summary, "");
    error.replaceChildren();
    outcome.replaceChildren(...nothing);
    details.hidden = true;
  };
  document.addEventListener(KEY_ACCEPTED, () => error.replaceChildren());

  const run = async () => {
    error.replaceChildren();
    say(summary, "Asking…");
    try {
      const { body, show } = prepare();
      curl.show(details, curl.command(path, body, needsKey()));
      const { answer, ms } = await call(path, body);
      const shown = show(answer, ms);
      outcome.replaceChildren(shown.outcome);
      say(summary, shown.summary);
    } catch (problem) {
      say(summary, "");
      outcome.replaceChildren();
      if (problem instanceof RangeError) details.hidden = true; // nothing was asked
      error.replaceChildren(...explain(problem, nameOf));
      if (!(problem instanceof ApiError || problem instanceof RangeError)) throw problem;
    }
  };

  form.onsubmit = async (event) => {
    event.preventDefault();
    if (isRunning) return;
    isRunning = true;
    button.setAttribute("aria-disabled", "true");
    await run().finally(() => {
      isRunning = false;
      button.removeAttribute("aria-disabled");
    });
  };
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  return reset;
}

function explain(problem, nameOf) {
  const about = problem.param ? nameOf(problem.param) || problem.param : "";
  const facts = [
    problem.status ? `Status ${problem.status}` : "",
    problem.param ? `field ${problem.param}` : "",
    problem.requestId ? `request ${problem.requestId}` : "",
  ].filter(Boolean);
  const said = make("p", {}, problem.status === 401 ? "The server asks for an API key: enter one at the top of this page." : problem.message);
  if (about && about !== problem.param) said.append(` (${about})`);
  return facts.length ? [said, make("p", { className: "hint" }, facts.join(" · "))] : [said];
}
