/** The API of the server that this page is from. */

let key = ""; // here and nowhere else: no storage, no address, no document

export const useKey = (text) => {
  key = text.trim();
};
export const hasKey = () => key !== "";

/** What the server, or the want of one, has to say about a failure. */
export class ApiError extends Error {
  constructor(message, { status = 0, param = null, requestId = null } = {}) {
    super(message);
    Object.assign(this, { status, param, requestId });
  }
}

/** Keys are bytes to the server: UTF-8, as a terminal would send them. */
const asHeader = (text) => String.fromCharCode(...new TextEncoder().encode(text));

/**
 * Ask the server; POST if there is a body.
 *
 * @returns {Promise<Response>} of any status
 * @throws {ApiError} there is no answer
 */
export async function ask(path, { body, timeout_ms = 120_000 } = {}) {
  const headers = {};
  if (key) headers.authorization = `Bearer ${asHeader(key)}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  try {
    return await fetch(path, {
      method: body === undefined ? "GET" : "POST",
      headers,
      body: JSON.stringify(body),
      cache: "no-store",
      signal: AbortSignal.timeout(timeout_ms),
    });
  } catch {
    throw new ApiError("No answer from the server.");
  }
}

/**
 * Ask the server for JSON.
 *
 * @returns {Promise<{answer: object, ms: number}>} with the time from the request to the end of the answer
 * @throws {ApiError} it fails
 */
export async function call(path, body) {
  const started = performance.now();
  const response = await ask(path, { body });
  const text = await response.text().catch(() => "");
  const ms = performance.now() - started;
  let answer = {};
  try {
    answer = JSON.parse(text);
  } catch {
    if (response.ok) throw new ApiError("The answer broke off, or is no JSON.", response);
  }
  if (!response.ok) {
    throw new ApiError(answer.error?.message ?? `The server answered with status ${response.status}.`, {
      status: response.status,
      param: answer.error?.param,
      requestId: response.headers.get("x-request-id"),
    });
  }
  return { answer, ms };
}
