// The rollouts that a training kept: a slider for the step of the training, and the rollouts of that step side by side.
import { $, counted, element, number, signed } from "./core.js";
import { shorten, visible } from "./text.js";
import { SUBJECTS } from "./data.js";
import { active, estimatorOf, rhoOf, state, unitOf } from "./state.js";
import { CSV, fillTable } from "./tables.js";

/** The rollouts of the same step of the training as a rollout, as [first, last + 1]. Of other subjects: all rollouts. */
export const besides = (subject, rollout) => subject.cohorts.find(([from, to]) => rollout >= from && rollout < to) ?? [0, subject.rollouts.length];

const stepOfTraining = (subject, rollout) => subject.rollouts[rollout]?.sampled.step;

const orUndefined = (value, text) => (Number.isFinite(value) ? text(value) : "undefined");

/** What the training knew of a rollout, in words; empty for a rollout that is not of a training. */
export function trainingFacts({ sampled }) {
  if (!sampled) return [];
  const parts = Object.entries(sampled.rewards).map(([name, value]) => `${shorten(name, 40)} ${orUndefined(value, number)}`);
  return [`step ${counted(sampled.step)} of the training`, `inversion ι ${signed(sampled.inversion)}`,
    `task reward ${orUndefined(sampled.task_reward, number)}${parts.length > 1 || sampled.task_reward === null ? ` (${parts.join(", ")})` : ""}`,
    `reward ${orUndefined(sampled.reward, number)} with λ ${number(sampled.weight)}`, `advantage ${signed(sampled.advantage)}`];
}

/** A few words about a rollout for the list; null for a rollout that is not of a training. */
export const rewardWord = ({ sampled }) => (sampled ? `reward ${orUndefined(sampled.reward, number)}` : null);

/** Set the slider to the step of the shown rollout, and fill the table of its rollouts. `show` opens a rollout. */
export function drawSampled(show) {
  if (!$("sampled")) return;
  const subject = active(), known = subject.isSampled && subject.rollouts.length > 0;
  $("sampled").hidden = !known;
  if (!known) return;
  const place = subject.cohorts.findIndex(([from]) => from === besides(subject, state.rollout)[0]), slider = $("training-step");
  slider.max = String(subject.cohorts.length - 1);
  slider.value = String(place);
  slider.disabled = subject.cohorts.length < 2;
  slider.setAttribute("aria-valuetext", `step ${stepOfTraining(subject, state.rollout)}`);
  $("training-step-name").textContent = `step ${counted(stepOfTraining(subject, state.rollout))} (${counted(place + 1)} of ${counted(subject.cohorts.length)} kept steps)`;
  fillSampled(subject, show);
}

function fillSampled(subject, show) {
  const [from, to] = besides(subject, state.rollout), unit = unitOf(subject), rows = [];
  for (let rollout = from; rollout < to; rollout++) {
    const { id, sampled, finish } = subject.rollouts[rollout], tokens = subject.starts[rollout + 1] - subject.starts[rollout];
    const open = element("button", { type: "button", class: "quiet", "aria-label": `Read rollout ${visible(id, 40)}`, "aria-current": rollout === state.rollout ? "true" : null, onclick: () => { show(rollout); refocus(); } }, visible(id, 40));
    rows.push([open, { text: signed(rhoOf(subject, rollout)) }, { text: signed(sampled.inversion) }, { text: orUndefined(sampled.task_reward, number) }, { text: orUndefined(sampled.reward, number) }, { text: signed(sampled.advantage) }, { text: counted(tokens) }, visible(finish ?? "", 20)]);
  }
  fillTable($("sampled-table"), "Kept rollouts of this step of the training", ["rollout", `ρ by ${unit}`, "ι", "task reward", "reward", "advantage", "tokens", "ended by"], rows);
}

/** The table was filled again, so the focus goes to the button of the shown rollout. */
const refocus = () => $("sampled-table").querySelector('button[aria-current="true"]')?.focus({ preventScroll: true });

CSV.set("sampled", () => {
  const subjects = SUBJECTS.filter((subject) => subject.isSampled), names = [...new Set(subjects.flatMap(({ rollouts }) => rollouts.flatMap(({ sampled }) => Object.keys(sampled.rewards))))];
  const rows = subjects.flatMap((subject) => subject.rollouts.map(({ id, sampled, finish }, rollout) => {
    const rho = (unit) => subject.correlation(rollout, estimatorOf(subject), null, unit);
    return [subject.label, sampled.step, id, sampled.inversion, sampled.correlation, ...["token", "type", "step"].map(rho), sampled.task_reward, ...names.map((name) => sampled.rewards[name]), sampled.weight, sampled.reward, sampled.advantage, subject.starts[rollout + 1] - subject.starts[rollout], finish];
  }));
  return { header: ["run", "step", "rollout_id", "inversion", "correlation", "correlation_token", "correlation_type", "correlation_step", "task_reward", ...names.map((name) => `rewards/${name}`), "weight", "reward", "advantage", "num_tokens", "finish"], rows };
});

/** Go to the rollout at the same place of another step of the training. */
export function wireSampled(show) {
  $("training-step")?.addEventListener("input", () => {
    const subject = active(), place = state.rollout - besides(subject, state.rollout)[0], [from, to] = subject.cohorts[Number($("training-step").value)];
    show(Math.min(to - 1, from + place));
  });
}
