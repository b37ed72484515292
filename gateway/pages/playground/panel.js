/** What all panels share: ask the server one thing at a time, show its answer or error, and each call as a curl command. */

import { ApiError, call } from "./api.js";
import * as curl from "./curl.js";
import { find, make, say } from "./dom.js";
import { KEY_ACCEPTED, needsKey } from "./models.js";

/**
 * Call the API when a form is submitted.
 *
 * @param {HTMLElement} section
 * @param {() => (ask: Ask) => Promise<{summary: string, outcome: Node}>} prepare reads the form, and returns what makes
 *   the calls by `ask(path, body)`, which is `call` of api.js; throws a RangeError that says what is missing
 * @param {(param: string) => string} nameOf the input that an error is about, in words; "" to show the field's name
 * @returns {() => void} removes the last result
 */
export function listen(section, prepare, nameOf) {
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
    say(summary, "Running…");
    try {
      const work = prepare();
      const commands = [];
      const shown = await work((path, body) => {
        commands.push(curl.command(path, body, needsKey()));
        curl.show(details, commands);
        return call(path, body);
      });
      outcome.replaceChildren(shown.outcome);
      say(summary, shown.summary);
    } catch (problem) {
      say(summary, "");
      outcome.replaceChildren();
      if (problem instanceof RangeError) details.hidden = true; // no call was made
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
  const said = make("p", {}, problem.status === 401 ? "The server requires an API key. Enter it at the top of this page." : problem.message);
  if (about && about !== problem.param) said.append(` (${about})`);
  return facts.length ? [said, make("p", { className: "hint" }, facts.join(" · "))] : [said];
}
