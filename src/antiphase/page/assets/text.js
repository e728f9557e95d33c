// The text of tokens in visible form: control characters are shown by name, line ends as signs, and long text is cut.
import { counted, element } from "./core.js";

const LONGEST = 400;
const NAMED = new Map([["\t", "⇥"], ["\n", "⏎"], ["\r", "␍"], ["\u2028", "⏎"], ["\u2029", "⏎"], ["\u00a0", "⍽"]]);
// C0 and C1 controls, zero-width and joining characters, direction marks, line separators, surrogates, tags.
const UNSEEN = /[\u0000-\u001f\u007f-\u00a0\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff\ufeff\ufff9-\ufffb]|[\u{e0000}-\u{e007f}]/u;
const PARTS = new RegExp(UNSEEN.source, "gu");

const nameOf = (character) => NAMED.get(character) ?? `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;

/** The text as one string, with signs in place of invisible characters. */
export function visible(text, longest = LONGEST) {
  const cut = text.length > longest ? `${text.slice(0, longest)}… (${counted(text.length)} characters)` : text;
  return cut.replace(PARTS, nameOf);
}

/** The text as nodes, with an element of its own for each invisible character. */
export function visibleNodes(text, longest = LONGEST) {
  const cut = text.length > longest ? text.slice(0, longest) : text;
  const nodes = [];
  let last = 0;
  for (const match of cut.matchAll(PARTS)) {
    if (match.index > last) nodes.push(cut.slice(last, match.index));
    nodes.push(element("span", { class: "control" }, nameOf(match[0])));
    last = match.index + match[0].length;
  }
  nodes.push(cut.slice(last));
  if (cut !== text) nodes.push(element("span", { class: "control" }, `… ${counted(text.length - longest)} more characters`));
  return nodes;
}

/** The text in at most `width` characters. The middle is left out, because names mostly differ at their ends. */
export function shorten(text, width) {
  const shown = visible(text, 4 * width);
  if (shown.length <= width) return shown;
  const head = Math.floor((width - 1) / 3);
  return `${shown.slice(0, head)}…${shown.slice(head + 1 - width)}`;
}

/** The name of a token that consists of blanks only. */
export const blankName = (text) => (text === "" ? "empty token" : `blank: ${visible(text).replaceAll(" ", "space ").trim()}`);

export const endsLine = (text) => /[\n\u2028\u2029]$/.test(text);

/** The nodes of a longer text. Its line breaks stay; the rest is as in `visibleNodes`. */
export function paragraphNodes(text, longest = 20000) {
  const nodes = [];
  for (const line of text.slice(0, longest).split(/(\n)/)) nodes.push(...(line === "\n" ? ["\n"] : visibleNodes(line, longest)));
  if (text.length > longest) nodes.push(element("span", { class: "control" }, `… ${counted(text.length - longest)} more characters`));
  return nodes;
}
