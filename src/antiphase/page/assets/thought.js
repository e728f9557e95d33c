// The thought of a reasoning model's rollout. It is folded away, so that the reader sees the answer first.
import { $, counted } from "./core.js";
import { isSelected } from "./state.js";

const fold = { open: false };

/** The number of tokens of a rollout's thought that the page holds. */
function thoughtLength(subject, rollout) {
  return Math.min(subject.rollouts[rollout]?.thought ?? 0, subject.starts[rollout + 1] - subject.starts[rollout]) || 0;
}

/** Index of the first token of a rollout that is shown. */
export const firstShown = (subject, rollout) => (subject.starts[rollout] ?? 0) + (fold.open ? 0 : thoughtLength(subject, rollout));

/** The text that is shown if a rollout has no tokens to show. */
export function emptyText(subject, rollout) {
  if (!thoughtLength(subject, rollout)) return "(no tokens)";
  return subject.rollouts[rollout].cut ? "(this file holds only a part of the thought)" : "(no answer: the thought does not end)";
}

export function foldThought() { fold.open = false; }

/** Unfold the thought if it hides this token. Returns whether it did. */
export function unfoldFor(subject, rollout, token) {
  if (token === null || token >= firstShown(subject, rollout) || token < subject.starts[rollout]) return false;
  fold.open = true;
  return true;
}

/** Say how long the thought is, and how many of its tokens are selected. */
export function nameThought(subject, rollout) {
  const count = thoughtLength(subject, rollout), from = subject.starts[rollout] ?? 0;
  let selected = 0;
  for (let token = from; token < from + count; token++) selected += isSelected(subject, token);
  $("thought").hidden = count === 0;
  $("thought").setAttribute("aria-expanded", String(fold.open));
  $("thought").textContent = `Thought: ${counted(count)} ${count === 1 ? "token" : "tokens"}${selected ? `, ${counted(selected)} selected` : ""}`;
}

export function wireThought(action) {
  $("thought").addEventListener("click", () => { fold.open = !fold.open; action(); });
}
