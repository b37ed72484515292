/** Tokens and the words that they are parts of, as a model's tokenizer writes them. */

const IS_MARK = /^[<[].+[>\]]$/; // of special tokens, which are no part of a word

/**
 * The texts of lists of token ids.
 *
 * @param {(path: string, body: object) => Promise<{answer: string[]}>} ask
 * @param {number[][]} lists
 */
export const decode = async (ask, model, lists) =>
  lists.length ? (await ask("decode", { model: model.id, ids: lists, skip_special_tokens: false })).answer : [];

export const visible = (text) => text.trim() || (text.includes("\n") ? "↵" : "␣");

/**
 * The words of a text and the marks around it, in order.
 *
 * @param {(number | null)[]} ids null for a token by which the model expands a query
 * @returns {Promise<{text: string, places: number[]}[]>} where `places` are indices in `ids`
 */
export async function split(ask, model, ids) {
  const known = ids.filter((id) => id !== null); // the others are last
  const pairs = known.slice(1).map((id, i) => [known[i], id]);
  const texts = await decode(ask, model, [...known.map((id) => [id]), ...pairs]);
  const words = [];
  ids.forEach((id, i) => {
    const text = id === null ? "added" : texts[i];
    const isMark = id === null || IS_MARK.test(text.trim());
    const last = words.at(-1);
    const pair = texts[known.length + i - 1];
    if (isMark && last?.text === text) last.places.push(i);
    else if (isMark || !last || last.isMark || !isJoined(last.text, pair, text)) words.push({ text, places: [i], isMark });
    else {
      last.text += pair.slice(texts[i - 1].length);
      last.places.push(i);
    }
  });
  return words.map(({ text, places, isMark }) => ({
    text: isMark && places.length > 1 ? `${text} × ${places.length}` : visible(text),
    places,
  }));
}

/** Whether the second token of a pair goes on with a word: no space is written between them, or the word is only one. */
function isJoined(word, pair, second) {
  const end = second.trim();
  if (word === " ") return end !== "";
  return end !== "" && !/\s$/.test(pair.slice(0, pair.length - end.length));
}
