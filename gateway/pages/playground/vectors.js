/** Vectors as the API writes them. */

/** An embedding: a list of numbers, or base64 of little-endian float32. */
export function decode(embedding) {
  if (typeof embedding !== "string") return Float64Array.from(embedding);
  const view = new DataView(Uint8Array.from(atob(embedding), (byte) => byte.charCodeAt(0)).buffer);
  return Float64Array.from({ length: view.byteLength / 4 }, (_, i) => view.getFloat32(4 * i, true));
}

const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);

/** Dot products of each of some vectors with each of others, [n][m]. */
export const dots = (vectors, others) => vectors.map((a) => others.map((b) => dot(a, b)));

/** Cosines of all pairs, [n][n]. */
export function cosines(vectors) {
  const lengths = vectors.map((vector) => Math.sqrt(dot(vector, vector)));
  return vectors.map((a, i) => vectors.map((b, j) => dot(a, b) / (lengths[i] * lengths[j] || 1)));
}
