// Scatter: draw entropy against strength of the shown models. Only a sample of the tokens is drawn, but the reader selects among all.
import { $, counted, debounced, element, number, tick } from "./core.js";
import { blankName, shorten, visibleNodes } from "./text.js";
import { meanOf, sampled } from "./statistics.js";
import { SUBJECTS } from "./data.js";
import { change, estimatorOf, listen, numSelected, remember, shownSubjects, state, strengthName, touches } from "./state.js";
import { chart, colourOf, theme } from "./charts.js";
import { CSV, fillTable } from "./tables.js";
import { tokenLine } from "./details.js";
import { focusToken } from "./microscope.js";

const MOST_DRAWN = 24000, MOST_LIT = 4000;
const scatter = { chart: null, drawn: [], box: null };

/** The coordinates of a subject's tokens on the chosen axes. */
function coordinates(subject, axes) {
  const estimator = estimatorOf(subject);
  if (axes === "rank") {
    const ranks = subject.ranks(estimator, state.cell);
    return [ranks.entropy, ranks.strength];
  }
  return [subject.entropy, subject.strength(estimator, state.cell)];
}

function drawScatter() {
  const subjects = shownSubjects(), axes = $("axes").value;
  const each = Math.max(1, Math.floor(MOST_DRAWN / Math.max(1, subjects.length)));
  let all = 0;
  scatter.drawn = subjects.map((subject) => {
    const [x, y] = coordinates(subject, axes);
    all += x.reduce((sum, value, i) => sum + (Number.isNaN(value) || Number.isNaN(y[i]) ? 0 : 1), 0);
    return { subject, x, y, places: sampled(x, y, each) };
  });
  const count = scatter.drawn.reduce((sum, { places }) => sum + places.length, 0);
  const words = { linear: ["entropy (nats)", strengthName()], log: ["entropy (nats)", `${strengthName()}, log`], rank: ["rank of entropy", `rank of ${strengthName()}`] }[axes];
  scatter.chart = chart($("scatter-chart"), () => scatterOptions(axes, words), `Scatter of ${counted(count)} tokens: ${words[0]} against ${words[1]}, one colour for each model. Select by range with the fields below.`, { renderer: "canvas", after: armBrush });
  const limit = SUBJECTS.some((subject) => state.cell && !subject.isSampled && subject.detailed.length < subject.rollouts.length)
    ? " This file holds the strengths by layer for some rollouts only." : "";
  $("scatter-caption").textContent = `Drag over the chart to select tokens. Click a dot to read the token in its rollout. ${count < all ? `Drawn: ${counted(count)} of ${counted(all)} tokens, evenly spaced. A selection covers all tokens, drawn or not.` : `${counted(all)} tokens.`}${limit}`;
  $("range-x").textContent = axes === "rank" ? "Entropy rank" : "Entropy";
  $("range-y").textContent = axes === "rank" ? "strength rank" : "strength";
}

function scatterOptions(axes, words) {
  const any = numSelected() > 0, { lit, ink } = theme();
  const point = (drawn, i) => [drawn.x[i], drawn.y[i]];
  const narrow = $("scatter-chart").clientWidth < 520;
  const count = scatter.drawn.reduce((sum, { places }) => sum + places.length, 0);
  const series = scatter.drawn.map((drawn) => ({
    type: "scatter", name: shorten(drawn.subject.label, 60), large: true, largeThreshold: 1500, symbolSize: count < 4000 ? 6 : 4, silent: true,
    progressive: 0, itemStyle: { color: colourOf(drawn.subject.place), opacity: any ? 0.15 : 0.45 },
    data: drawn.places.map((i) => point(drawn, i)),
  }));
  const each = Math.max(1, Math.floor(MOST_LIT / Math.max(1, scatter.drawn.length)));
  for (const drawn of any ? scatter.drawn : []) {
    const mask = state.selected.get(drawn.subject.place);
    if (!mask) continue;
    const places = sampled(drawn.x, drawn.y, each, (i) => mask[i]);
    series.push({ type: "scatter", silent: true, symbolSize: 6, z: 4, data: places.map((i) => point(drawn, i)),
      itemStyle: { color: colourOf(drawn.subject.place), borderColor: lit, borderWidth: 1 } });
  }
  series.push({ id: "here", type: "scatter", silent: true, symbolSize: 15, z: 6, data: pointHere(), itemStyle: { color: "transparent", borderColor: ink, borderWidth: 2 } });
  const limits = axes === "rank" ? { min: 0, max: 1 } : { scale: true };
  return {
    grid: { left: 58, right: 16, top: 12, bottom: 48 },
    xAxis: { type: "value", name: words[0], ...limits },
    yAxis: { type: axes === "log" ? "log" : "value", name: words[1], nameGap: 42, ...limits, axisLabel: { color: theme().soft, formatter: (value) => tick(value, axes === "log" ? 3 : 10), hideOverlap: true, fontSize: narrow ? 10 : 12 } },
    toolbox: { show: false },
    brush: { xAxisIndex: 0, yAxisIndex: 0, brushMode: "single", throttleType: "debounce", throttleDelay: 200,
      brushStyle: { color: "rgba(128,128,128,0.15)", borderColor: lit, borderWidth: 1 }, outOfBrush: {}, inBrush: {} },
    series,
  };
}

/** The point of the chosen token, if its model is drawn. */
function pointHere() {
  const here = scatter.drawn.find(({ subject }) => subject.place === state.subject), token = state.token;
  return here && token !== null && !Number.isNaN(here.y[token]) ? [[here.x[token], here.y[token]]] : [];
}

/** Let the mouse draw a box on the chart. Drawing and resizing remove this brush and its box, so both are restored. */
function armBrush() {
  if (!scatter.chart) return;
  scatter.chart.dispatchAction({ type: "takeGlobalCursor", key: "brush", brushOption: { brushType: "rect", brushMode: "single" } });
  if (scatter.box?.flat().every(Number.isFinite)) {
    scatter.chart.dispatchAction({ type: "brush", areas: [{ brushType: "rect", xAxisIndex: 0, yAxisIndex: 0, coordRange: scatter.box }] });
  }
}

/** Select every token of the shown models inside a box on the chosen axes. */
function selectBox(box) {
  const axes = $("axes").value, [[x0, x1], [y0, y1]] = box;
  scatter.box = box;
  const selected = new Map();
  for (const subject of shownSubjects()) {
    const [x, y] = coordinates(subject, axes), mask = new Uint8Array(subject.numTokens);
    for (let i = 0; i < mask.length; i++) if (x[i] >= x0 && x[i] <= x1 && y[i] >= y0 && y[i] <= y1) mask[i] = 1;
    if (mask.includes(1)) selected.set(subject.place, mask);
  }
  change({ selected });
}

function clearSelection() {
  scatter.box = null;
  change({ selected: new Map() });
}

/** The drawn token that is nearest to a point on the screen, if it is near enough; else null. */
function nearest(offsetX, offsetY) {
  const point = scatter.chart.convertFromPixel({ gridIndex: 0 }, [offsetX, offsetY]);
  if (!point || !scatter.chart.containPixel({ gridIndex: 0 }, [offsetX, offsetY])) return null;
  const shift = scatter.chart.convertFromPixel({ gridIndex: 0 }, [offsetX + 1, offsetY - 1]);
  const log = $("axes").value === "log", y = (value) => (log ? Math.log(value) : value);
  const dx = shift[0] - point[0], dy = y(shift[1]) - y(point[1]);
  let best = null, least = 12 ** 2;
  for (const drawn of scatter.drawn) {
    for (const i of drawn.places) {
      const distance = ((drawn.x[i] - point[0]) / dx) ** 2 + ((y(drawn.y[i]) - y(point[1])) / dy) ** 2;
      if (distance < least) { least = distance; best = { subject: drawn.subject, token: i }; }
    }
  }
  return best;
}

function showSelection() {
  const count = numSelected(), parts = [], groups = new Map();
  for (const [place, mask] of state.selected) {
    if (!state.shown.has(place)) continue;
    const subject = SUBJECTS[place], strength = subject.strength(estimatorOf(subject), state.cell);
    let own = 0;
    mask.forEach((flag, token) => {
      if (!flag) return;
      own++;
      const text = subject.text(token), key = `${place} ${text}`, group = groups.get(key) ?? { text, count: 0, entropy: [], strength: [], subject, token };
      group.count++; group.entropy.push(subject.entropy[token]); group.strength.push(strength[token]);
      groups.set(key, group);
    });
    if (own) parts.push(`${shorten(subject.label, 60)}: ${counted(own)}`);
  }
  $("selection").textContent = count ? `${counted(count)} tokens selected (${parts.join("; ")}).` : "No tokens selected.";
  const rows = [...groups.values()].sort((a, b) => b.count - a.count);
  CSV.set("selected", () => ({ header: ["model", "estimator", "cell", "token", "count", "entropy_mean", "strength_mean"],
    rows: rows.map((g) => [g.subject.label, estimatorOf(g.subject), state.cell ?? "mean", g.text, g.count, meanOf(g.entropy), meanOf(g.strength)]) }));
  const top = rows.slice(0, 12).map((g) => {
    const jump = element("button", { type: "button", class: "quiet", onclick: () => focusToken(g.subject, g.token) }, ...(g.text.trim() ? visibleNodes(g.text, 40) : [blankName(g.text)]));
    return [jump, { text: counted(g.count) }, { text: number(meanOf(g.entropy)) }, { text: number(meanOf(g.strength)) }];
  });
  if (rows.length) fillTable($("selected-table"), "Most frequent selected tokens, with their mean entropy and strength", ["token", "count", "entropy", "strength"], top);
  else $("selected-table").replaceChildren();
}

/** Run the action after the chart has finished its own event. Drawing during the event breaks the brush. */
const later = (action) => setTimeout(action, 0);

export function wireScatter() {
  $("axes").addEventListener("change", () => { scatter.box = null; drawScatter(); remember(); });
  drawShown();
  drawScatter();
  armBrush();
  showSelection();
  scatter.chart.on("brushEnd", ({ areas }) => { if (areas.length) later(() => selectBox(areas[0].coordRange)); });
  const surface = scatter.chart.getZr();
  let pressed = null;
  surface.on("mousedown", (event) => { pressed = [event.offsetX, event.offsetY]; });
  surface.on("mouseup", (event) => {
    const moved = pressed && Math.hypot(event.offsetX - pressed[0], event.offsetY - pressed[1]) > 4;
    const found = moved ? null : nearest(event.offsetX, event.offsetY);
    if (found) later(() => focusToken(found.subject, found.token));
    else if (pressed && !moved && scatter.box) later(clearSelection);
  });
  surface.on("mousemove", debounced((event) => {
    const found = nearest(event.offsetX, event.offsetY);
    $("near").textContent = found ? tokenLine(found.subject, found.token) : "\u00a0";
  }, 30));
  $("range").addEventListener("submit", (event) => {
    event.preventDefault();
    const edge = (id, otherwise) => ($(id).value === "" ? otherwise : Number($(id).value));
    selectBox([[edge("x-low", -Infinity), edge("x-high", Infinity)], [edge("y-low", -Infinity), edge("y-high", Infinity)]]);
  });
  $("clear-selection").addEventListener("click", clearSelection);
  listen((changed) => {
    if (touches(changed, "cell", "estimator")) scatter.box = null;
    if (touches(changed, "estimator", "cell", "shown", "selected")) drawScatter();
    else if (touches(changed, "token", "subject")) scatter.chart.setOption({ series: [{ id: "here", data: pointHere() }] });
    if (touches(changed, "selected", "estimator", "cell", "shown")) showSelection();
  });
}

function drawShown() {
  const boxes = SUBJECTS.filter((subject) => subject.numTokens && !subject.isSampled).map((subject) => {
    const box = element("input", { type: "checkbox", checked: true, onchange: () => {
      const shown = new Set(state.shown);
      if (box.checked) shown.add(subject.place); else shown.delete(subject.place);
      change({ shown });
    } });
    const square = element("span", { class: "swatch", style: { background: colourOf(subject.place) } });
    return element("label", {}, box, square, element("bdi", {}, shorten(subject.label, 60)));
  });
  $("shown").replaceChildren($("shown").querySelector("legend"), ...boxes);
}
