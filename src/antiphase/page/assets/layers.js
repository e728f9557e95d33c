// Layer × projection: show the pooled ρ of each cell, from the summary. If the reader chooses a cell, the whole page uses its strength.
import { $, element, fail, signed, tick } from "./core.js";
import { shorten } from "./text.js";
import { SUBJECTS } from "./data.js";
import { active, change, estimatorOf, shownSubjects, state, view } from "./state.js";
import { chart, colourOf, diverging, lonely, ramp, rules } from "./charts.js";
import { CSV } from "./tables.js";

/** The largest |ρ| on the maps, at least 0.1. It gets the full colour. */
function mapLimit() {
  const values = shownSubjects().flatMap((subject) => subject.reading(estimatorOf(subject))?.by_projection.flat() ?? []);
  return Math.max(0.1, ...values.filter((value) => value !== null).map(Math.abs));
}

export function drawLayers() {
  const limit = mapLimit(), maps = [];
  for (const subject of shownSubjects()) {
    const reading = subject.reading(estimatorOf(subject));
    if (!reading?.by_projection.length) continue;
    maps.push(mapOf(subject, reading, limit));
  }
  $("layers-maps").replaceChildren(...maps);
  if (!maps.length) $("layers-maps").append(element("p", { class: "meta" }, "No shown model has strengths by layer and projection. An evaluation keeps them with --by-projection."));
  $("layers-legend").replaceChildren(`ρ −${limit.toFixed(2)} `, ramp(true), ` +${limit.toFixed(2)}`);
  $("layers-legend").hidden = !maps.length;
  $("reset-cell").hidden = state.cell === null;
  drawLayerCurves();
}

/** Draw ρ by layer of the chosen model, one line for each projection. */
function drawLayerCurves() {
  const subject = active(), reading = subject.reading(estimatorOf(subject)), few = !reading || reading.by_projection.length < 2;
  $("layers-figure").hidden = few;
  if (few) return;
  const { layers, projections, by_projection: rho } = reading;
  const least = projections.map((name, p) => {
    const l = rho.reduce((best, row, at) => ((row[p] ?? Infinity) < (rho[best][p] ?? Infinity) ? at : best), 0);
    return `${name} lowest at layer ${layers[l]} (${signed(rho[l][p], 2)})`;
  });
  const [layer, name] = /^L(\d+)\.(\w)$/.exec(state.cell ?? "")?.slice(1) ?? [];
  chart($("layers-chart"), ({ ink, soft }) => ({
    legend: { top: 0, itemWidth: 14, itemHeight: 6, textStyle: { color: ink }, data: projections },
    grid: { left: 52, right: 12, top: 28, bottom: 42 },
    xAxis: { type: "category", data: layers.map(String), name: "layer", nameGap: 24, axisLine: { onZero: false, lineStyle: { color: soft } } },
    yAxis: { type: "value", name: "ρ", nameGap: 34, axisLabel: { color: soft, formatter: (value) => tick(value) } },
    series: projections.map((own, p) => ({ type: "line", name: own, silent: true, ...lonely(rho.map((row) => row[p])), itemStyle: { color: colourOf(p) }, lineStyle: { width: name === own ? 3 : 1.6 }, data: rho.map((row) => row[p] ?? NaN),
      markLine: rules(soft, [...(p ? [] : [{ yAxis: 0 }]), ...(name === own && layers.includes(Number(layer)) ? [{ xAxis: String(layer), lineStyle: { type: "dashed" } }] : [])]) })),
  }), `ρ by layer, ${shorten(subject.label, 60)}: ${least.join("; ")}`);
  $("layers-caption").textContent = `${shorten(subject.label, 60)}: ${least.join("; ")}.`;
}

function mapOf(subject, reading, limit) {
  const usable = subject.hasCells(reading.estimator);
  const cell = (layer, projection, value) => {
    const name = `L${layer}.${projection}`, text = value === null ? "—" : signed(value, 2);
    const made = element("button", { type: "button", "data-cell": name, tabindex: -1, "aria-pressed": String(state.cell === name), disabled: !usable || value === null,
      "aria-label": `layer ${layer}, ${projection}, ρ ${text}`, onclick: () => chooseCell(state.cell === name ? null : name) }, text);
    made.style.background = value === null ? "transparent" : diverging(value / limit);
    return element("td", {}, made);
  };
  const table = element("table", { class: "map", "data-subject": subject.place },
    element("caption", {}, `${shorten(subject.label, 60)} · ${reading.estimator}`),
    element("thead", {}, element("tr", {}, element("th", { scope: "col" }, element("span", { class: "hidden" }, "layer")), reading.projections.map((name) => element("th", { scope: "col" }, name)))),
    element("tbody", {}, reading.layers.map((layer, l) => element("tr", {}, element("th", { scope: "row" }, String(layer)), reading.projections.map((name, p) => cell(layer, name, reading.by_projection[l][p]))))));
  const entry = table.querySelector('button[aria-pressed="true"]') ?? table.querySelector("button:not(:disabled)");
  if (entry) entry.tabIndex = 0;
  table.addEventListener("keydown", moveInMap);
  return table;
}

/** Arrow keys move through the map; the Tab key reaches one cell at a time. */
function moveInMap(event) {
  const by = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
  const cell = event.target.closest("td");
  if (!by || !cell) return;
  event.preventDefault();
  const row = cell.parentElement, body = row.parentElement;
  const next = body.rows[row.sectionRowIndex + by[0]]?.cells[cell.cellIndex + by[1]]?.querySelector("button");
  if (!next) return;
  cell.querySelector("button").tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

let choice = 0;

/** Use a cell of an estimator as the strength (null: the mean over all cells) after its values are unpacked. Only the last call counts. */
export async function chooseStrength(estimator, name) {
  const turn = ++choice;
  let cell = name;
  if (cell !== null && active().cellPlace(estimatorOf(active(), estimator), cell) < 0) {
    cell = null;
    $("status").textContent = `${estimator} did not measure ${name}, so the strength is the mean over all layers and projections.`;
  } else $("status").textContent = cell === null ? "" : "Unpacking…";
  if (cell !== null) await Promise.all(SUBJECTS.map((subject) => subject.loadCells(estimatorOf(subject, estimator)))).catch(fail);
  if (turn !== choice) return;
  change({ estimator, cell });
  if (cell !== null) $("status").textContent = `Strength: ${cell}.`;
  setTimeout(() => { if (turn === choice) $("status").textContent = ""; }, 4000);
}

export async function chooseCell(name) {
  const inMap = document.activeElement?.closest?.(".map")?.dataset.subject;
  await chooseStrength(state.estimator, name);
  if (inMap !== undefined) document.querySelector(`.map[data-subject="${inMap}"] button[data-cell="${name ?? ""}"]`)?.focus();
}

CSV.set("layers", () => ({
  header: ["model", "estimator", "layer", "projection", "spearman"],
  rows: shownSubjects().flatMap((subject) => {
    const reading = subject.reading(estimatorOf(subject));
    return (reading?.by_projection ?? []).flatMap((row, l) => row.map((value, p) => [subject.label, reading.estimator, reading.layers[l], reading.projections[p], value]));
  }),
}));

export function wireLayers() {
  $("reset-cell").addEventListener("click", () => chooseCell(null));
  view("layers", drawLayers, "cell", "estimator", "shown", "subject");
}
