// The verdict on a rollout in words.
import { visible } from "./text.js";

export const verdictWord = ({ correct, outcome }) => (correct === true ? "right" : correct === false ? (outcome && outcome !== "wrong" ? `wrong (${outcome})` : "wrong") : null);

/** The strict and the flexible score in words, if they differ from the verdict; null if neither differs. */
export function otherScores(rollout) {
  const parted = [["strict", "strictly"], ["flexible", "flexibly"]].filter(([name]) => name in rollout && rollout[name] !== rollout.correct);
  return parted.map(([name, word]) => `${word} ${rollout[name] ? "right" : "wrong"}`).join(", ") || null;
}

/** The verdict with its reason; empty for a rollout that was not judged. */
export const verdictOf = (rollout) => [verdictWord(rollout), rollout.reason && visible(rollout.reason, 80)].filter(Boolean).join(": ");
