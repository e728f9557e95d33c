// Show the steps of the shown rollout: where each begins, its entropy and strength, and ρ over the steps.
import { $, counted, element, endsOf, number, signed, tick } from "./core.js";
import { visible, visibleNodes } from "./text.js";
import { sampled } from "./statistics.js";
import { active, estimatorOf, listen, state, touches, view } from "./state.js";
import { chart, colourOf } from "./charts.js";
import { besides } from "./kept.js";
import { CSV, fillTable } from "./tables.js";
import { focusToken } from "./microscope.js";

const MOST_STEPS = 8000, MOST_LISTED = 300, MOST_NUMBERED = 40;
const stepping = { drawn: [], log: false, chart: null };

/** The steps that have both signals: all of the shown rollout, and evenly spaced ones of the other rollouts. */
function stepPoints(subject, estimator) {
  const entropy = subject.steps.entropy[estimator], strength = subject.steps.strength[estimator];
  const [from, to] = [subject.steps.starts[state.rollout] ?? 0, subject.steps.starts[state.rollout + 1] ?? 0];
  const known = (place) => !Number.isNaN(entropy[place]) && !Number.isNaN(strength[place]);
  const point = (place) => ({ place, x: entropy[place], y: strength[place] });
  const own = [];
  for (let place = from; place < to; place++) if (known(place)) own.push(point(place));
  const [low, high] = stepsBesides(subject);
  return { own, others: sampled(entropy, strength, MOST_STEPS, (place) => place >= low && place < high && (place < from || place >= to)).map(point), from, to };
}

/** The range of the steps of all rollouts that the policy of the shown rollout wrote. */
const stepsBesides = (subject) => besides(subject, state.rollout).map((rollout) => subject.steps.starts[rollout]);

function drawSteps() {
  const subject = active(), estimator = estimatorOf(subject), known = Boolean(subject.steps) && Boolean(estimator);
  $("steps-view").hidden = !known;
  $("steps-none").hidden = known;
  if (!known) return;
  drawStepChart(subject, estimator);
  fillStepCorrelations(subject, estimator);
  fillStepList(subject, estimator);
}

function drawStepChart(subject, estimator) {
  const { own, others, from, to } = stepPoints(subject, estimator), drawn = [...others, ...own], heights = drawn.map(({ y }) => y);
  // The axis is logarithmic if all values are positive and the largest is more than 30 times the smallest.
  const log = drawn.length > 0 && Math.min(...heights) > 0 && Math.max(...heights) > 30 * Math.min(...heights);
  Object.assign(stepping, { drawn, log });
  const pairs = (list) => list.map(({ x, y }) => [x, y]), numbered = own.length <= MOST_NUMBERED;
  const colour = () => colourOf(subject.place);
  stepping.chart = chart($("steps-chart"), ({ ink, soft, lit }) => ({
    grid: { left: 58, right: 20, top: 16, bottom: 48 },
    xAxis: { type: "value", name: "entropy of the step (nats)", scale: true },
    yAxis: { type: log ? "log" : "value", name: `strength of the step${log ? ", log" : ""}`, nameGap: 42, scale: true, axisLabel: { color: soft, formatter: (value) => tick(value, log ? 3 : 10), hideOverlap: true } },
    series: [
      { type: "scatter", silent: true, symbolSize: 5, large: true, largeThreshold: 1500, progressive: 0, itemStyle: { color: soft, opacity: 0.35 }, data: pairs(others) },
      { type: "scatter", silent: true, symbolSize: 9, z: 4, itemStyle: { color: colour(), borderColor: lit, borderWidth: 1 }, labelLayout: { hideOverlap: true },
        label: { show: numbered, position: "right", distance: 3, color: ink, fontSize: 11, formatter: ({ dataIndex }) => String(own[dataIndex].place - from) }, data: pairs(own) },
      { id: "step-here", type: "scatter", silent: true, symbolSize: 17, z: 6, data: stepHere(), itemStyle: { color: "transparent", borderColor: ink, borderWidth: 2 } },
    ],
  }), `Scatter of ${counted(drawn.length)} steps, entropy against strength; the ${counted(own.length)} of the shown rollout are marked. The table below has their numbers.`, { renderer: "canvas" });
  if (!stepping.wired) wireStepChart();
  const missing = to - from - own.length, total = measuredSteps(subject, estimator);
  $("steps-caption").textContent = `Coloured: the ${counted(own.length)} steps of the shown rollout${numbered ? ", with their numbers" : ""}${missing ? `; ${counted(missing)} more have no strength` : ""}. ` +
    `Grey: ${others.length + own.length < total ? `${counted(others.length)} of ${counted(total - own.length)} other steps, evenly spaced` : `the ${counted(others.length)} steps of the other rollouts`}. ` +
    `Click a dot to read the step.${state.cell ? " The strength of a step is the mean over all layers and projections, even if a cell is chosen." : ""}`;
}

const measuredSteps = (subject, estimator) => subject.once(`steps ${estimator} ${stepsBesides(subject)}`, () =>
  subject.steps.entropy[estimator].subarray(...stepsBesides(subject)).reduce((sum, value, i) => sum + (Number.isNaN(value) || Number.isNaN(subject.steps.strength[estimator][stepsBesides(subject)[0] + i]) ? 0 : 1), 0));

/** The point of the step that holds the chosen token. */
function stepHere() {
  const place = active().stepOf(state.token), found = stepping.drawn.find((point) => point.place === place);
  return found ? [[found.x, found.y]] : [];
}

function wireStepChart() {
  stepping.wired = true;
  stepping.chart.getZr().on("click", ({ offsetX, offsetY }) => {
    const at = [offsetX, offsetY];
    if (!stepping.chart.containPixel({ gridIndex: 0 }, at)) return;
    let best = null, least = 14 ** 2;
    for (const { place, x, y } of stepping.drawn) {
      const [left, top] = stepping.chart.convertToPixel({ gridIndex: 0 }, [x, y]), distance = (left - at[0]) ** 2 + (top - at[1]) ** 2;
      if (distance < least) { least = distance; best = place; }
    }
    if (best !== null) setTimeout(() => goToStep(active(), best), 0);
  });
}

function goToStep(subject, place) {
  const { rollout, start } = subject.step(place, estimatorOf(subject));
  const token = subject.starts[rollout] + start;
  if (token < subject.starts[rollout + 1]) focusToken(subject, token);
}

/** ρ over steps of the rollout and of the run, and the numbers that help to read it, as pairs [label, entry]. */
function stepCorrelations(subject, estimator) {
  const step = subject.reading(estimator)?.units.step ?? {}, own = (column) => subject.ofRollout(column, state.rollout, estimator);
  const windows = Object.entries(step.windows ?? {}).map(([name, entry]) => [`windows of ${name.replace("fixed:", "")} tokens in place of steps`, entry]);
  return [
    ["this rollout", { value: own("spearman_step"), low: own("spearman_step_low"), high: own("spearman_step_high") }],
    ["this rollout, lengths and places held fixed", { value: own("spearman_given_length") }],
    ["the run", subject.isSampled ? null : step], ["the run, lengths of the steps held fixed", step.given?.length], ["the run, places held fixed", step.given?.position],
    ["the run, lengths and places held fixed", step.given?.both], ...windows.map(([name, entry]) => [`the run, ${name}`, entry]),
    ["mean of the rollouts", step.within], ["entropy with the length of the step", step.with_length?.entropy], ["strength with the length of the step", step.with_length?.strength],
  ].filter(([, entry]) => entry);
}

function fillStepCorrelations(subject, estimator) {
  const reading = subject.reading(estimator) ?? {}, step = reading.units?.step;
  fillTable($("steps-rho"), "ρ of entropy and strength over steps", ["over steps", "ρ", "95 % interval"], stepCorrelations(subject, estimator).map(([name, entry]) => [name, { text: signed(entry.value) }, { text: endsOf(entry) }]));
  const how = { mean: "The strength of a step is the mean of its tokens' strengths. ", joint: "The strength of a step is the norm of the gradient of its tokens together, divided by the square root of their number. " }[reading.step_strength] ?? "";
  $("steps-note").textContent = `${reading.splitter ? `Steps are made by ${visible(reading.splitter, 60)}. ` : ""}${how}${step ? `The run has ${counted(step.num_items)} measured steps; ${counted(step.num_undefined)} of ${counted(reading.num_rollouts)} rollouts have no ρ over their steps${reading.min_steps ? ` (fewer than ${reading.min_steps} steps, or a constant series)` : ""}. ` : ""}` +
    `A long step averages more tokens. ρ with the lengths and places held fixed is what remains without this effect.${step ? " Windows of equal length ignore where sentences end." : ""}`;
}

/** The text of a step, made of the tokens that the page holds. */
function stepText(subject, step) {
  const from = subject.starts[step.rollout] + step.start, to = Math.min(subject.starts[step.rollout + 1], from + step.tokens);
  let text = "";
  for (let token = from; token < to && text.length < 400; token++) text += (subject.spaced[token] ? " " : "") + subject.text(token);
  return text;
}

function fillStepList(subject, estimator) {
  const [from, to] = [subject.steps.starts[state.rollout] ?? 0, subject.steps.starts[state.rollout + 1] ?? 0], last = Math.min(to, from + MOST_LISTED);
  const here = subject.stepOf(state.token), rows = [];
  for (let place = from; place < last; place++) {
    const step = subject.step(place, estimator), jump = element("button", { type: "button", class: "quiet", "aria-label": `step ${step.number}`, "aria-current": place === here ? "true" : null, onclick: () => goToStep(subject, place) }, counted(step.number));
    rows.push([jump, { text: counted(step.start) }, { text: counted(step.tokens) }, { text: number(step.entropy) }, { text: Number.isNaN(step.strength) ? "—" : number(step.strength) }, element("bdi", {}, ...visibleNodes(stepText(subject, step).trim(), 120))]);
  }
  fillTable($("steps-table"), "Steps of the rollout", ["step", "begins at", "tokens", "entropy (nats)", "strength", "text"], rows);
  $("steps-more").textContent = last < to ? `The table shows the first ${counted(last - from)} of ${counted(to - from)} steps. The CSV file holds all of them.` : "";
}

CSV.set("steps", () => {
  const subject = active(), estimator = estimatorOf(subject), rows = [];
  for (let place = subject.steps?.starts[state.rollout] ?? 0; place < (subject.steps?.starts[state.rollout + 1] ?? 0); place++) {
    const step = subject.step(place, estimator);
    rows.push([subject.label, estimator, subject.rollouts[step.rollout].id, step.number, step.start, step.tokens, step.position, step.entropy, step.strength, stepText(subject, step)]);
  }
  return { header: ["model", "estimator", "rollout_id", "step", "start", "num_tokens", "position", "entropy", "strength", "text"], rows };
});

CSV.set("steps-rho", () => {
  const subject = active(), estimator = estimatorOf(subject);
  const rows = subject.steps ? stepCorrelations(subject, estimator).map(([name, entry]) => [subject.label, estimator, subject.rollouts[state.rollout]?.id, name, entry.value, entry.low, entry.high]) : [];
  return { header: ["model", "estimator", "rollout_id", "over", "spearman", "low", "high"], rows };
});

function markStepHere() {
  if (!active().steps || !stepping.chart) return;
  stepping.chart.setOption({ series: [{ id: "step-here", data: stepHere() }] });
  const { starts } = active().steps, here = active().stepOf(state.token) - starts[state.rollout];
  [...($("steps-table").tBodies[0]?.rows ?? [])].forEach((row, i) => {
    const button = row.querySelector("button");
    if (i === here) button.setAttribute("aria-current", "true"); else button.removeAttribute("aria-current");
  });
}

export function wireSteps() {
  view("steps", drawSteps, "subject", "estimator", "rollout", "cell");
  listen((changed) => { if (touches(changed, "token") && !touches(changed, "subject", "estimator", "rollout", "cell")) markStepHere(); });
}
