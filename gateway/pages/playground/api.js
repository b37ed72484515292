/** The API of the server that this page comes from. */

let key = ""; // kept here only: not in storage, an address or the document

export const useKey = (text) => {
  key = text.trim();
};
export const hasKey = () => key !== "";

/** A failed call: the server's error, or no response. */
export class ApiError extends Error {
  constructor(message, { status = 0, param = null, requestId = null } = {}) {
    super(message);
    Object.assign(this, { status, param, requestId });
  }
}

/** The server compares keys as bytes: send UTF-8, as a terminal does. */
const asHeader = (text) => String.fromCharCode(...new TextEncoder().encode(text));

/**
 * Call the server, by POST if there is a body.
 *
 * @returns {Promise<Response>} of any status
 * @throws {ApiError} there is no response
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
    throw new ApiError("The server did not respond.");
  }
}

/**
 * Call the server for JSON.
 *
 * @returns {Promise<{answer: object, ms: number}>} with the time from the request to the end of the response
 * @throws {ApiError} the call failed
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
    if (response.ok) throw new ApiError("The response is incomplete or not JSON.", response);
  }
  if (!response.ok) {
    throw new ApiError(answer.error?.message ?? `The server responded with status ${response.status}.`, {
      status: response.status,
      param: answer.error?.param,
      requestId: response.headers.get("x-request-id"),
    });
  }
  return { answer, ms };
}
