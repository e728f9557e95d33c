// The rollouts that a training kept: a slider for the step of the training, and the rollouts of that step side by side.
import { $, counted, element, number, signed } from "./core.js";
import { shorten, visible } from "./text.js";
import { SUBJECTS } from "./data.js";
import { active, estimatorOf, rhoOf, state, unitOf } from "./state.js";
import { CSV, fillTable } from "./tables.js";

/** The rollouts of the same step of the training as a rollout, as [first, last + 1]. Of other subjects: all rollouts. */
export const besides = (subject, rollout) => subject.cohorts.find(([from, to]) => rollout >= from && rollout < to) ?? [0, subject.rollouts.length];

const stepOfTraining = (subject, rollout) => subject.rollouts[rollout]?.kept.step;

/** A reward as text. A rest that rounding left behind is 0. */
const rewardText = (value) => (Number.isFinite(value) ? number(Math.abs(value) < 1e-12 ? 0 : value) : "undefined");

/** What the training knew of a rollout, in words; empty for a rollout that is not of a training. */
export function trainingFacts({ kept }) {
  if (!kept) return [];
  const parts = Object.entries(kept.rewards).map(([name, value]) => `${shorten(name, 40)} ${rewardText(value)}`);
  return [`step ${counted(kept.step)} of the training`, `inversion ι ${signed(kept.inversion)}`,
    `task reward ${rewardText(kept.task_reward)}${parts.length > 1 || kept.task_reward === null ? ` (${parts.join(", ")})` : ""}`,
    `reward ${rewardText(kept.reward)} with λ ${number(kept.weight)}`, `advantage ${signed(kept.advantage)}`];
}

/** A few words about a rollout for the list; null for a rollout that is not of a training. */
export const rewardWord = ({ kept }) => (kept ? `reward ${rewardText(kept.reward)}` : null);

/** Set the slider to the step of the shown rollout, and fill the table of its rollouts. `show` opens a rollout. */
export function drawKept(show) {
  if (!$("kept")) return;
  const subject = active(), known = subject.isSampled && subject.rollouts.length > 0;
  $("kept").hidden = !known;
  if (!known) return;
  const place = subject.cohorts.findIndex(([from]) => from === besides(subject, state.rollout)[0]), slider = $("training-step");
  slider.max = String(subject.cohorts.length - 1);
  slider.value = String(place);
  slider.disabled = subject.cohorts.length < 2;
  slider.setAttribute("aria-valuetext", `step ${stepOfTraining(subject, state.rollout)}`);
  $("training-step-name").textContent = `step ${counted(stepOfTraining(subject, state.rollout))} (${counted(place + 1)} of ${counted(subject.cohorts.length)} kept steps)`;
  fillKept(subject, show);
}

function fillKept(subject, show) {
  const [from, to] = besides(subject, state.rollout), unit = unitOf(subject), rows = [];
  for (let rollout = from; rollout < to; rollout++) {
    const { id, kept, finish } = subject.rollouts[rollout], tokens = subject.starts[rollout + 1] - subject.starts[rollout];
    const open = element("button", { type: "button", class: "quiet", "aria-label": `Read rollout ${visible(id, 40)}`, "aria-current": rollout === state.rollout ? "true" : null, onclick: () => { show(rollout); refocus(); } }, visible(id, 40));
    rows.push([open, { text: signed(rhoOf(subject, rollout)) }, { text: signed(kept.inversion) }, { text: rewardText(kept.task_reward) }, { text: rewardText(kept.reward) }, { text: signed(kept.advantage) }, { text: counted(tokens) }, visible(finish ?? "", 20)]);
  }
  fillTable($("kept-table"), "Kept rollouts of this step of the training", ["rollout", `ρ by ${unit}`, "ι", "task reward", "reward", "advantage", "tokens", "ended by"], rows);
}

/** The table was filled again, so the focus goes to the button of the shown rollout. */
const refocus = () => $("kept-table").querySelector('button[aria-current="true"]')?.focus({ preventScroll: true });

CSV.set("kept", () => {
  const subjects = SUBJECTS.filter((subject) => subject.isSampled), names = [...new Set(subjects.flatMap(({ rollouts }) => rollouts.flatMap(({ kept }) => Object.keys(kept.rewards))))];
  const rows = subjects.flatMap((subject) => subject.rollouts.map(({ id, kept, finish }, rollout) => {
    const rho = (unit) => subject.correlation(rollout, estimatorOf(subject), null, unit);
    return [subject.label, kept.step, id, kept.inversion, kept.correlation, ...["token", "type", "step"].map(rho), kept.task_reward, ...names.map((name) => kept.rewards[name]), kept.weight, kept.reward, kept.advantage, subject.starts[rollout + 1] - subject.starts[rollout], finish];
  }));
  return { header: ["run", "step", "rollout_id", "inversion", "correlation", "correlation_token", "correlation_type", "correlation_step", "task_reward", ...names.map((name) => `rewards/${name}`), "weight", "reward", "advantage", "num_tokens", "finish"], rows };
});

/** Go to the rollout at the same place of another step of the training. */
export function wireKept(show) {
  $("training-step")?.addEventListener("input", () => {
    const subject = active(), place = state.rollout - besides(subject, state.rollout)[0], [from, to] = subject.cohorts[Number($("training-step").value)];
    show(Math.min(to - 1, from + place));
  });
}
