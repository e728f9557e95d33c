// Charts: ECharts (the global `echarts` of echarts.min.js) draws them in the colours of the theme, and again when the theme or the size changes.
import { element } from "./core.js";

const CHARTS = new Map();
const PALETTE = ["#1f77b4", "#d5701c", "#2a9d6f", "#b0459c", "#8a6d00", "#c0392b", "#5b5fc7", "#3a8fa3", "#7a5230", "#6b7d2a"];
const PALETTE_DARK = ["#6fb4ec", "#f0a35c", "#62d3a4", "#e48bd4", "#d9bd4a", "#f08a7f", "#a3a6f5", "#7fd0e2", "#cfa07a", "#b9cc70"];

const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
export const isDark = () => {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};
// main.js sets this before printing and unsets it afterwards.
export const medium = { printing: false };

/** The colour of a model. After ten models, the colours repeat. */
export function colourOf(place) {
  const colours = isDark() && !medium.printing ? PALETTE_DARK : PALETTE;
  return colours[place % colours.length];
}

// The colours in print. Paper is white also in dark mode.
const PRINTED = { ink: "#000000", soft: "#444444", line: "#bbbbbb", paper: "#ffffff", accent: "#1f5f99", low: "#1f5f99", high: "#b85a0f", lit: "#7a1fa2" };

export function theme() {
  if (medium.printing) return PRINTED;
  return { ink: variable("--ink"), soft: variable("--soft"), line: variable("--line"), paper: variable("--paper"),
    accent: variable("--accent"), low: variable("--low"), high: variable("--high"), lit: variable("--lit") };
}

/**
 * Draw a chart in an element and keep it there. `options(theme)` returns the options of ECharts.
 * `after` is called after every drawing, and when the size has changed.
 * `label` says in words what the chart shows, for screen readers. Returns the chart.
 */
export function chart(holder, options, label, { renderer = "svg", after = () => {} } = {}) {
  let entry = CHARTS.get(holder);
  if (!entry) {
    const drawn = echarts.init(holder, null, { renderer });
    entry = { drawn, observer: new ResizeObserver(() => { drawn.resize(); entry.after(); }) };
    entry.observer.observe(holder);
    CHARTS.set(holder, entry);
  }
  Object.assign(entry, { options, after });
  holder.setAttribute("role", "img");
  holder.setAttribute("aria-label", label);
  redraw(entry);
  return entry.drawn;
}

function redraw(entry) {
  entry.drawn.setOption(styled(entry.options(theme())), { notMerge: true });
  entry.after();
}

export function dispose(holder) {
  const entry = CHARTS.get(holder);
  if (!entry) return;
  entry.observer.disconnect();
  entry.drawn.dispose();
  CHARTS.delete(holder);
}

function styled(options) {
  const { ink, soft, line } = theme();
  const axis = (given) => ({
    nameLocation: "middle", nameGap: 30, nameTextStyle: { color: ink }, axisLabel: { color: soft, hideOverlap: true },
    axisLine: { lineStyle: { color: soft } }, splitLine: { lineStyle: { color: line } }, ...given,
  });
  const axes = (given) => (Array.isArray(given) ? given.map(axis) : given && axis(given));
  return {
    animation: false, textStyle: { color: ink, fontFamily: getComputedStyle(document.body).fontFamily }, ...options,
    xAxis: axes(options.xAxis), yAxis: axes(options.yAxis),
  };
}

export function redrawCharts() {
  for (const [holder, entry] of [...CHARTS]) {
    if (!holder.isConnected) dispose(holder);
    else redraw(entry);
  }
}

/** The symbols of a line. A value without a neighbour gets a dot, because no line would show it. Other values get none. */
export function lonely(values, { size = 6, joined = false } = {}) {
  const known = Number.isFinite;
  const only = joined && values.filter(known).length === 1;
  const alone = (i) => known(values[i]) && (joined ? only : !known(values[i - 1]) && !known(values[i + 1]));
  const any = values.some((_, i) => alone(i));
  return any ? { showSymbol: true, symbolSize: size, symbol: (_, { dataIndex }) => (alone(dataIndex) ? "circle" : "none") } : { showSymbol: false };
}

/** Straight lines across a chart, without labels. */
export const rules = (color, data, type = "solid") => ({ silent: true, symbol: "none", label: { show: false }, lineStyle: { color, type, width: 1 }, data });

/** A small square in a colour, in front of the name that it stands for. */
export const swatch = (background) => element("span", { class: "swatch", style: { display: "inline-block", marginRight: ".4em", background } });

/** The strongest share of a colour behind text that leaves the text readable. */
const depth = () => (isDark() && !medium.printing ? 0.48 : 0.62);

/** A colour for a share in [−1, 1]. It goes from the low colour over transparent (0) to the high colour. */
export function diverging(share, strength = depth()) {
  const { low, high } = theme();
  const size = Math.round(Math.min(1, Math.abs(share)) * strength * 100);
  return `color-mix(in srgb, ${share < 0 ? low : high} ${size}%, transparent)`;
}

export function sequential(share, strength = depth()) {
  const size = Math.round(Math.min(1, Math.max(0, share)) * strength * 100);
  return `color-mix(in srgb, ${theme().accent} ${size}%, transparent)`;
}

/** The legend of a shade: a strip with its colours from low to high. If `signs` is true, negative values have colours of their own. */
export function ramp(signs) {
  const colours = [-1, -0.5, 0, 0.5, 1].map((share) => (signs ? diverging(share) : sequential((share + 1) / 2)));
  return element("span", { class: "ramp", "aria-hidden": "true", style: { background: `linear-gradient(90deg, ${colours.join(", ")})` } });
}
