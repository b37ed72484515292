// What the server answers to plain requests: the truth that clients' answers are held against.
import assert from "node:assert/strict";

export const SERVER = process.env.COMPAT_URL;
export const MODEL = "all-minilm-l6-v2";
export const RERANKER = "minilm-late-interaction";
export const PROMPTED = "prompted";
// as in plain.py
export const TEXTS = [
  "A conch is a large sea snail.",
  "Brass is an alloy of copper and zinc.",
  "Trumpets are made of brass.",
];
export const QUERY = "what are trumpets made of?";

export async function post(path, body) {
  const headers = { "content-type": "application/json" };
  const answer = await fetch(SERVER + path, { method: "POST", headers, body: JSON.stringify(body) });
  const content = await answer.json();
  assert.equal(answer.status, 200, JSON.stringify(content));
  return content;
}

export async function embed(input, fields = {}) {
  const answer = await post("/v1/embeddings", { model: MODEL, input, ...fields });
  return answer.data.map((one) => one.embedding);
}

export async function rank(query, documents) {
  const answer = await post("/v1/rerank", { model: RERANKER, query, documents });
  return answer.results.map((one) => [one.index, one.relevance_score]);
}

export function assertSame(found, expected) {
  assert.equal(found.length, expected.length);
  found.forEach((vector, i) => {
    assert.equal(vector.length, expected[i].length);
    const dot = (a, b) => a.reduce((sum, value, j) => sum + value * b[j], 0);
    const [ours, theirs] = [Math.sqrt(dot(expected[i], expected[i])), Math.sqrt(dot(vector, vector))];
    assert.ok(dot(vector, expected[i]) / ours / theirs > 0.99999, `vector ${i} has another direction`);
    assert.ok(Math.abs(ours - theirs) < 1e-5, `vector ${i} has another length`);
  });
}

export function assertRanked(found, expected) {
  assert.deepEqual(found.map(([index]) => index), expected.map(([index]) => index));
  found.forEach(([, score], i) => assert.ok(Math.abs(score - expected[i][1]) < 1e-3, `score ${i} is ${score}`));
}
