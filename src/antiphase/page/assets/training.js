// Training: curves by optimizer step with alarms and held-out numbers. The seeds of one recipe are one band.
import { $, counted, element, number, tick } from "./core.js";
import { shorten } from "./text.js";
import { meanOf, points, runningMean } from "./statistics.js";
import { VALUES } from "./data.js";
import { chart, colourOf, dispose, lonely, rules, swatch, theme } from "./charts.js";
import { CSV, fillTable } from "./tables.js";

const PANELS = [
  { name: "inversion ι", step: "inversion/mean", zero: true },
  { name: "ρ, unit of the reward", step: "inversion/correlation", zero: true, held: { value: "probe/spearman", low: "probe/spearman_low", high: "probe/spearman_high" } },
  { name: "ρ by step", step: "inversion/correlation_step", zero: true, beside: "inversion/correlation_given_length", note: "Dotted: the lengths and places of the steps held fixed." },
  { name: "rollouts without a score", step: "inversion/undefined", share: true, note: "They have no ρ over the unit of the reward, because they are too short or a signal is constant." },
  { name: "task reward", step: "task/mean" },
  { name: "accuracy", step: "task/accuracy", share: true, held: { value: "heldout/pass@1", low: "heldout/pass@1_low", high: "heldout/pass@1_high" }, greedy: "heldout/greedy" },
  { name: "completions without an answer", step: "accuracy/no_answer", share: true, beside: "accuracy/cut_off", held: { value: "heldout/no_answer" }, note: "Dotted: completions that were cut off before an answer." },
  { name: "groups whose task rewards tie", step: "task/tied_groups", share: true },
  { name: "entropy (nats)", step: "rollout/entropy" },
  { name: "length (tokens)", step: "rollout/length" },
];
const trainings = VALUES.trainings;
const KINDS_OF_ROWS = ["step", "eval", "probe"];
// Panels with ρ by every unit on a probe set. The numbers come from checkpoints or from the callback of a training.
for (const unit of ["type", "token", "step"]) {
  const key = `probe/spearman_${unit}`;
  PANELS.push({ name: `ρ by ${unit}, probed`, step: key, zero: true, held: { value: key, low: `${key}_low`, high: `${key}_high` } });
}
const FIRST = "sampling/accuracy";
if (trainings.some((run) => run.step[FIRST])) PANELS.find(({ step }) => step === "task/accuracy").note = "With dynamic sampling, the accuracy of a batch before groups are replaced.";
/** The values of a metric in the steps of a run. Dynamic sampling chooses a batch by its rewards, so its accuracy is that of the batch before. */
const stepsOf = (run, key) => (key === "task/accuracy" && run.step[FIRST]) || run.step[key];

/** The curves of a metric: one for each run, or one with a band for each group of seeds. */
function curves(key) {
  const width = Math.max(1, Math.round(Number($("smooth").value)) || 1);
  const found = trainings.map((run, place) => ({ name: run.label, place, group: run.group, step: run.step.step, raw: stepsOf(run, key) ?? [], mean: runningMean(stepsOf(run, key) ?? [], width), alarms: run.alarms }));
  if (!$("bands").checked) return found;
  const groups = new Map();
  for (const curve of found) groups.set(curve.group, [...(groups.get(curve.group) ?? []), curve]);
  return [...groups.values()].map((members) => (members.length === 1 ? members[0] : banded(members)));
}

function banded(members) {
  const steps = [...new Set(members.flatMap((curve) => curve.step))].sort((a, b) => a - b);
  const at = members.map((curve) => new Map(curve.step.map((step, i) => [step, curve.mean[i]])));
  const values = steps.map((step) => at.map((known) => known.get(step)).filter((value) => value !== null && value !== undefined));
  const over = (pick) => values.map((own) => (own.length ? pick(own) : null));
  return { name: `${members[0].name.replace(/ #\d+$/, "")} (${members.length} seeds)`, place: members[0].place, step: steps, raw: [], mean: over((own) => own.reduce((a, b) => a + b, 0) / own.length),
    low: over((own) => Math.min(...own)), high: over((own) => Math.max(...own)), alarms: members.flatMap((curve) => curve.alarms) };
}

function panelOptions(panel, drawn) {
  const { soft } = theme(), series = [];
  for (const curve of drawn) {
    const color = colourOf(curve.place), line = (name, values, style) => ({ type: "line", name, silent: true, ...lonely(values), data: points(curve.step, values), itemStyle: { color }, ...style });
    if (curve.low) {
      series.push(line("", curve.low, { showSymbol: false, stack: `band ${curve.place}`, lineStyle: { opacity: 0 }, stackStrategy: "all" }));
      series.push(line("", curve.high.map((high, i) => (high === null ? null : high - curve.low[i])), { showSymbol: false, stack: `band ${curve.place}`, lineStyle: { opacity: 0 }, areaStyle: { color, opacity: 0.18 }, stackStrategy: "all" }));
    } else if (curve.raw.length) series.push(line("", curve.raw, { ...lonely(curve.raw, { size: 3 }), lineStyle: { width: 0.7, opacity: 0.35 } }));
    const marks = curve.alarms.map((step) => ({ xAxis: step }));
    if (panel.zero) marks.push({ yAxis: 0, lineStyle: { type: "solid", width: 0.8 } });
    series.push(line(curve.name, curve.mean, { lineStyle: { width: 2 }, markLine: rules(soft, marks, "dashed") }));
  }
  for (const curve of panel.beside ? curves(panel.beside) : []) {
    series.push({ type: "line", name: "", silent: true, ...lonely(curve.mean, { joined: true }), connectNulls: true, data: points(curve.step, curve.mean), itemStyle: { color: colourOf(curve.place) }, lineStyle: { type: "dotted", width: 1.6 } });
  }
  for (const [place, run] of trainings.entries()) series.push(...heldOut(panel, run, place));
  return {
    grid: { left: 48, right: 14, top: 10, bottom: 42 },
    xAxis: { type: "value", name: "step", nameGap: 24, splitLine: { show: false }, max: "dataMax", minInterval: 1 },
    yAxis: { type: "value", scale: !panel.share, ...(panel.share ? { min: 0, max: 1 } : {}), axisLabel: { color: soft, formatter: (value) => tick(value), hideOverlap: true } },
    series,
  };
}

/** The index that decides a run's colour. With bands, all seeds of a recipe have the colour of the first one. */
const placeOf = (run, place) => ($("bands").checked ? trainings.findIndex((other) => other.group === run.group) : place);

/** The series with the held-out numbers of evaluations and probes, with intervals. */
function heldOut(panel, run, place) {
  const found = [], color = colourOf(placeOf(run, place));
  for (const rows of [run.eval, run.probe]) {
    const keys = panel.held;
    if (!keys || !rows[keys.value]) continue;
    const data = rows.step.map((step, i) => [step, rows[keys.value][i] ?? NaN, rows[keys.low]?.[i] ?? NaN, rows[keys.high]?.[i] ?? NaN]);
    // The ends of the intervals widen the axis too.
    found.push({ type: "custom", silent: true, data, z: 5, encode: { x: 0, y: [1, 2, 3] }, renderItem: (_, api) => {
      const [at, from, to] = [1, 2, 3].map((d) => api.coord([api.value(0), api.value(d)]));
      const line = Number.isFinite(from[1]) && Number.isFinite(to[1]) ? [{ type: "line", shape: { x1: from[0], y1: from[1], x2: to[0], y2: to[1] }, style: { stroke: color, lineWidth: 1.2 } }] : [];
      return Number.isFinite(at[1]) ? { type: "group", children: [...line, { type: "circle", shape: { cx: at[0], cy: at[1], r: 3.5 }, style: { fill: color } }] } : null;
    } });
  }
  if (panel.greedy && run.eval[panel.greedy]) found.push({ type: "scatter", silent: true, symbol: "diamond", symbolSize: 8, z: 5, data: points(run.eval.step, run.eval[panel.greedy]), itemStyle: { color: "transparent", borderColor: color, borderWidth: 1.5 } });
  return found;
}

/** Whether any run has numbers for a panel. */
const filled = (panel) => trainings.some((run) => stepsOf(run, panel.step) || (panel.held && (run.eval[panel.held.value] || run.probe[panel.held.value])) || (panel.greedy && run.eval[panel.greedy]));

function drawTraining() {
  const chosen = $("metric").value;
  const other = chosen && { name: chosen, step: chosen, held: { value: chosen, low: `${chosen}_low`, high: `${chosen}_high` } };
  const panels = [...PANELS.filter(filled), ...(other ? [other] : [])];
  const holders = panels.map((panel) => element("figure", {}, element("h3", {}, panel.name), element("div", { class: "chart" }), panel.note ? element("figcaption", { class: "meta" }, panel.note) : null));
  for (const old of $("training-charts").querySelectorAll(".chart")) dispose(old);
  $("training-charts").replaceChildren(...holders);
  panels.forEach((panel, i) => {
    const drawn = curves(panel.step), ends = drawn.map((curve) => `${shorten(curve.name, 60)} from ${number(curve.mean.find((v) => v !== null))} to ${number(curve.mean.findLast((v) => v !== null))}`);
    chart(holders[i].querySelector(".chart"), () => panelOptions(panel, drawn), `${panel.name} by step: ${ends.join("; ")}`);
  });
  const empty = PANELS.filter((panel) => !filled(panel) && trainings.some((run) => run.undefined.includes(panel.step)));
  $("training-undefined").hidden = !empty.length;
  $("training-undefined").textContent = empty.length ? `Undefined in every batch: ${empty.map(({ name }) => name).join("; ")}.` : "";
  drawTrainingTable();
}

/** Fill the table with the first and last tenth of every run. */
export function drawTrainingTable() {
  const panels = PANELS.filter(filled);
  const rows = trainings.map((run, place) => {
    const tenth = Math.max(1, Math.floor(run.step.step.length / 10));
    const ends = (key) => [(stepsOf(run, key) ?? run.probe[key])?.slice(0, tenth), (stepsOf(run, key) ?? run.probe[key])?.slice(-tenth)].map((part) => number(meanOf((part ?? []).map((v) => v ?? NaN))));
    return [element("span", {}, swatch(colourOf(placeOf(run, place))), element("bdi", {}, shorten(run.label, 60))), { text: counted(run.steps) },
      ...panels.map(({ step }) => ({ text: ends(step).join(" → ") })), { text: run.alarms.length ? run.alarms.join(", ") : "none" }];
  });
  fillTable($("training-table"), "First and last tenth of every training run", ["run", "steps", ...panels.map(({ name }) => name), "alarms at"], rows);
}

/** The names of all logged metrics. */
const metrics = () => [...new Set(trainings.flatMap((run) => KINDS_OF_ROWS.flatMap((kind) => Object.keys(run[kind]))))].filter((name) => name !== "step");

CSV.set("training", () => {
  const names = metrics();
  const rows = trainings.flatMap((run) => KINDS_OF_ROWS.flatMap((kind) => run[kind].step.map((step, i) => [run.label, kind, step, ...names.map((name) => run[kind][name]?.[i])])));
  return { header: ["run", "kind", "step", ...names], rows };
});

export function wireTraining() {
  const known = new Set(PANELS.map(({ step }) => step));
  const names = metrics().filter((name) => !known.has(name) && !/_(low|high)$/.test(name)).sort();
  $("metric").replaceChildren(element("option", { value: "" }, "none"), ...names.map((name) => element("option", { value: name }, name)));
  for (const id of ["smooth", "bands", "metric"]) $(id).addEventListener("change", drawTraining);
  drawTraining();
}
