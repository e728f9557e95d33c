// Start of the page: unpack the data, fill the controls, and connect the views.
import { $, counted, debounced, element, fail, signed } from "./core.js";
import { shorten } from "./text.js";
import { SUBJECTS } from "./data.js";
import { active, change, drawAllViews, estimatorOf, listen, recall, recallSelects, state, strengthName, touches } from "./state.js";
import { colourOf, isDark, medium, redrawCharts } from "./charts.js";
import { wireDownloads } from "./tables.js";
import { wireLinks } from "./links.js";
import { drawOverview, headlineOf } from "./overview.js";
import { wireScatter } from "./scatter.js";
import { showDetails } from "./details.js";
import { paint, wireMicroscope } from "./microscope.js";
import { wireSteps } from "./steps.js";
import { drawChain, wireChain } from "./chain.js";
import { chooseCell, chooseStrength, drawLayers, wireLayers } from "./layers.js";
import { drawKinds, wireKinds } from "./kinds.js";
import { drawTrainingTable, wireTraining } from "./training.js";

function fillControls() {
  $("model").replaceChildren(...SUBJECTS.map((subject) => element("option", { value: subject.place }, shorten(subject.label, 80))));
  fillEstimators();
  const sync = () => {
    $("model").value = String(state.subject);
    $("estimator").value = estimatorOf(active()) ?? "";
    $("cell").value = state.cell ?? "";
    const reading = active().reading(estimatorOf(active()));
    $("chosen").textContent = reading ? `${strengthName()} by ${reading.estimator}: ${chosenRho(active(), reading)}${heldShare(active())}` : "";
  };
  $("model").addEventListener("change", () => {
    change({ subject: Number($("model").value), rollout: 0, token: null });
    chooseStrength(state.estimator, state.cell);
  });
  $("estimator").addEventListener("change", () => chooseStrength($("estimator").value, state.cell));
  $("cell").addEventListener("change", () => chooseCell($("cell").value || null));
  listen((changed) => {
    if (touches(changed, "subject", "estimator")) fillEstimators();
    sync();
  });
  sync();
}

/** A note that some views cover fewer rollouts than the summary; empty if the file holds all rollouts. */
function heldShare(subject) {
  const held = state.cell ? subject.detailed.length : subject.rollouts.length;
  return held < subject.numRollouts ? ` (ranks and kinds use the ${counted(held)} of ${counted(subject.numRollouts)} rollouts in this file)` : "";
}

/** The summary's ρ of the chosen strength, in words. It is over the headline unit, or over tokens if one cell is chosen. */
function chosenRho(subject, reading) {
  const said = (value, unit, count) => `ρ by ${unit} ${signed(value)} over ${counted(count)} ${unit}${count === 1 ? "" : "s"}`;
  if (!state.cell) return said(headlineOf(reading).value, reading.headline, headlineOf(reading).num_items ?? 0);
  const place = subject.cellPlace(reading.estimator, state.cell), row = Math.floor(place / reading.projections.length);
  return said(place < 0 ? NaN : reading.by_projection[row]?.[place % reading.projections.length] ?? NaN, "token", reading.num_tokens);
}

function fillEstimators() {
  const subject = active(), reading = subject.reading(estimatorOf(subject));
  $("estimator").replaceChildren(...subject.estimators.map((name) => element("option", { value: name }, name)));
  const cells = reading && subject.hasCells(reading.estimator) ? reading.layers.flatMap((layer) => reading.projections.map((name) => `L${layer}.${name}`)) : [];
  const options = [element("option", { value: "" }, "mean over all"), ...cells.map((name) => element("option", { value: name }, `layer ${name.slice(1).replace(".", ", ")}`))];
  if (state.cell && !cells.includes(state.cell)) options.push(element("option", { value: state.cell }, state.cell));
  $("cell").replaceChildren(...options);
}

function sayWhatIsHeld() {
  const parts = SUBJECTS.filter((subject) => subject.numTokens).map((subject) => {
    const cut = subject.rollouts.length < subject.numRollouts ? `${counted(subject.rollouts.length)} of ${counted(subject.numRollouts)} rollouts` : `${counted(subject.rollouts.length)} rollouts`;
    const details = subject.isSampled || subject.detailed.length === subject.rollouts.length ? "" : `, with layers and alternatives of ${counted(subject.detailed.length)} of them`;
    const short = subject.rollouts.filter((rollout) => rollout.cut).length;
    return `${shorten(subject.label, 60)}: ${cut}${short ? ` (the beginning of ${counted(short)})` : ""}, ${counted(subject.numTokens)} tokens${details}`;
  });
  $("held").textContent = parts.length ? `This file holds ${parts.join("; ")}.${$("overview") ? " The numbers of the overview and the maps are over all rollouts." : ""}` : "";
}

function setTheme(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  $("theme").setAttribute("aria-pressed", String(dark));
  try { localStorage.setItem("antiphase-theme", dark ? "dark" : "light"); } catch { /* storage may be forbidden */ }
  recolour();
}

/** Draw again everything whose colours a script sets. */
function recolour() {
  redrawCharts();
  if ($("text")) { paint(); if ($("chain")) drawChain(); }
  if ($("scatter")) { drawShownColours(); if ($("layers-maps").children.length) drawLayers(); if ($("kinds-table").rows.length) drawKinds(); }
  if ($("training-table")) drawTrainingTable();
}

function drawShownColours() {
  const swatches = $("shown").querySelectorAll(".swatch");
  SUBJECTS.filter((subject) => subject.numTokens && !subject.isSampled).forEach((subject, i) => { swatches[i].style.background = colourOf(subject.place); });
}

function wireTheme() {
  let stored = null;
  try { stored = localStorage.getItem("antiphase-theme"); } catch { /* storage may be forbidden */ }
  if (stored) document.documentElement.dataset.theme = stored;
  $("theme").setAttribute("aria-pressed", String(isDark()));
  $("theme").addEventListener("click", () => setTheme(!isDark()));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
  addEventListener("beforeprint", () => { medium.printing = true; drawAllViews(); recolour(); });
  addEventListener("afterprint", () => { medium.printing = false; recolour(); });
}

async function startPage() {
  wireTheme();
  wireDownloads();
  await Promise.all(SUBJECTS.map((subject) => subject.load()));
  const wanted = recall(location.hash);
  state.estimator = SUBJECTS[0]?.estimators[0] ?? null;
  recallSelects(location.hash);
  const { cell, ...others } = wanted;
  Object.assign(state, others);
  if (cell) {
    await Promise.all(SUBJECTS.map((subject) => subject.loadCells(estimatorOf(subject))));
    state.cell = cell;
  }
  drawOverview();
  if ($("controls")) {
    $("controls").addEventListener("submit", (event) => event.preventDefault());
    fillControls();
    wireMicroscope();
    if ($("scatter")) wireScatter();
    if ($("steps")) wireSteps();
    if ($("chain")) wireChain();
    if ($("layers")) wireLayers();
    if ($("kinds")) wireKinds();
    sayWhatIsHeld();
    if (state.token !== null) showDetails(active(), state.token);
  }
  wireLinks();
  if ($("training-charts")) wireTraining();
  addEventListener("hashchange", () => {
    const { cell, estimator, ...asked } = recall(location.hash);
    if (!Object.keys(asked).length && !cell && !estimator) return; // a link within the page
    change(asked);
    chooseStrength(estimator ?? state.estimator, cell ?? null);
  });
  addEventListener("resize", debounced(drawOverview, 200));
  document.documentElement.dataset.ready = "true";
}

startPage().catch(fail);
