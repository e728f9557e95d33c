// Text of tokens as a reader can see it: controls by name, line ends as signs, long ones cut.
import { counted, element } from "./core.js";

const LONGEST = 400;
const NAMED = new Map([["\t", "⇥"], ["\n", "⏎"], ["\r", "␍"], ["\u2028", "⏎"], ["\u2029", "⏎"], ["\u00a0", "⍽"]]);
// C0 and C1 controls, zero-width and joining characters, direction marks, line separators, surrogates, tags.
const UNSEEN = /[\u0000-\u001f\u007f-\u00a0\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff\ufeff\ufff9-\ufffb]|[\u{e0000}-\u{e007f}]/u;
const PARTS = new RegExp(UNSEEN.source, "gu");

const nameOf = (character) => NAMED.get(character) ?? `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;

/** Text as one string, with signs for what cannot be seen. */
export function visible(text, longest = LONGEST) {
  const cut = text.length > longest ? `${text.slice(0, longest)}… (${counted(text.length)} characters)` : text;
  return cut.replace(PARTS, nameOf);
}

/** Text as nodes; what cannot be seen is set apart. */
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

/** At most `width` characters: the middle is left out, since names differ at their ends. */
export function shorten(text, width) {
  const shown = visible(text, 4 * width);
  if (shown.length <= width) return shown;
  const head = Math.floor((width - 1) / 3);
  return `${shown.slice(0, head)}…${shown.slice(head + 1 - width)}`;
}

/** How a token of nothing but blanks is called. */
export const blankName = (text) => (text === "" ? "empty token" : `blank: ${visible(text).replaceAll(" ", "space ").trim()}`);

export const endsLine = (text) => /[\n\u2028\u2029]$/.test(text);

/** Paragraph text: line breaks stay, the rest as above. */
export function paragraphNodes(text, longest = 20000) {
  const nodes = [];
  for (const line of text.slice(0, longest).split(/(\n)/)) nodes.push(...(line === "\n" ? ["\n"] : visibleNodes(line, longest)));
  if (text.length > longest) nodes.push(element("span", { class: "control" }, `… ${counted(text.length - longest)} more characters`));
  return nodes;
}
