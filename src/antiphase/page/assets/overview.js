// Overview: draw every model's ρ with its interval. The table below the chart is part of the HTML.
import { $, signed } from "./core.js";
import { shorten } from "./text.js";
import { SUBJECTS, UNITS, VALUES } from "./data.js";
import { chart, colourOf, rules, theme } from "./charts.js";
import { CSV } from "./tables.js";

const overviewRows = () => SUBJECTS.flatMap((subject) => subject.readings.map((reading) => ({ subject, reading })));

export const headlineOf = (reading) => reading.units[reading.headline];

CSV.set("overview", () => ({
  header: ["model", "run", "estimator", "headline", ...UNITS.flatMap((unit) => [`spearman_${unit}`, `spearman_${unit}_low`, `spearman_${unit}_high`, `spearman_${unit}_within`, `num_${unit}s`, `num_undefined_${unit}`]),
    "spearman_step_given_both", "pearson", "logprob_control", "num_prompts", "num_rollouts", "entropy_mean", "strength_mean", "accuracy", "accuracy_low", "accuracy_high", "accuracy_metric"],
  rows: overviewRows().map(({ subject, reading: r }) => [
    subject.label, VALUES.runs[subject.run].name, r.estimator, r.headline,
    ...UNITS.flatMap((unit) => { const u = r.units[unit]; return [u?.value, u?.low, u?.high, u?.within?.value, u?.num_items, u?.num_undefined]; }),
    r.units.step?.given?.both?.value, r.pearson?.value, r.logprob_control.value, r.num_prompts, r.num_rollouts, r.entropy_mean, r.strength_mean,
    r.accuracy?.value, r.accuracy?.low, r.accuracy?.high, r.accuracy_name,
  ]),
}));

// The symbol of each unit. That of the headline is filled.
const UNIT_MARKS = { type: "circle", token: "triangle", step: "diamond" };

/** One mark for the ρ of every model over every unit. `first` is true for the headline unit. */
function forestMarks(rows) {
  return rows.flatMap(({ subject, reading }, row) => {
    const units = UNITS.filter((unit) => Number.isFinite(reading.units[unit]?.value));
    return units.map((unit, i) => ({ subject, row, unit, shift: (i - (units.length - 1) / 2) * 11, entry: reading.units[unit], first: unit === reading.headline }));
  });
}

export function drawOverview() {
  const holder = $("forest");
  if (!holder) return;
  const rows = overviewRows().filter(({ reading }) => UNITS.some((unit) => Number.isFinite(reading.units[unit]?.value))).reverse();
  $("forest-figure").hidden = !rows.length;
  if (!rows.length) return;
  holder.style.height = `${70 + 44 * rows.length}px`;
  const narrow = holder.clientWidth < 520;
  const width = narrow ? 110 : 260;
  const name = ({ subject, reading }) => `${shorten(subject.label, narrow ? 12 : 34)} · ${reading.estimator}`;
  const spoken = (reading) => UNITS.filter((unit) => reading.units[unit]).map((unit) => `by ${unit} ${signed(reading.units[unit].value)}`).join(", ");
  const label = `ρ with interval: ${rows.map((row) => `${name(row)} ${spoken(row.reading)}`).reverse().join("; ")}`;
  const marks = forestMarks(rows);
  chart(holder, ({ soft, ink }) => ({
    grid: { left: width + 12, right: 16, top: 8, bottom: 46 },
    xAxis: { type: "value", min: -1, max: 1, name: "ρ", nameGap: 26 },
    yAxis: { type: "category", data: rows.map(name), axisTick: { show: false },
      axisLabel: { color: ink, interval: 0 }, splitLine: { show: false } },
    series: [
      { type: "custom", silent: true, data: marks.map(({ row, entry }) => [row, entry.low ?? NaN, entry.high ?? NaN]),
        renderItem: (params, api) => {
          const { shift, subject, first } = marks[params.dataIndex], [from, to] = [1, 2].map((d) => api.coord([api.value(d), api.value(0)]));
          if (!Number.isFinite(from[0]) || !Number.isFinite(to[0])) return null;
          return { type: "line", shape: { x1: from[0], y1: from[1] + shift, x2: to[0], y2: to[1] + shift }, style: { stroke: colourOf(subject.place), lineWidth: first ? 2.5 : 1 } };
        } },
      { type: "scatter", silent: true, z: 3, data: marks.map(({ subject, row, unit, shift, entry, first }) => ({ value: [entry.value, row], symbol: UNIT_MARKS[unit], symbolSize: first ? 10 : 8, symbolOffset: [0, shift],
          itemStyle: { color: first ? colourOf(subject.place) : theme().paper, borderColor: colourOf(subject.place), borderWidth: 1.3 } })),
        markLine: rules(soft, [{ xAxis: 0 }]) },
      { type: "scatter", silent: true, symbol: "rect", symbolSize: 7, data: rows.map(({ reading }, i) => [reading.logprob_control.value ?? NaN, i]),
        itemStyle: { color: "transparent", borderColor: soft, borderWidth: 1.2 } },
    ],
  }), label);
}
