// Overview: ρ of every model with its interval. The table beside it was written with the page.
function overviewRows() {
  return SUBJECTS.flatMap((subject) => subject.readings.map((reading) => ({ subject, reading })));
}

CSV.set("overview", () => ({
  header: ["model", "run", "estimator", "spearman", "spearman_low", "spearman_high", "spearman_within", "pearson",
    "spearman_unique", "logprob_control", "num_tokens", "num_prompts", "num_rollouts", "num_undefined", "entropy_mean",
    "strength_mean", "accuracy", "accuracy_low", "accuracy_high", "accuracy_metric"],
  rows: overviewRows().map(({ subject, reading: r }) => [
    subject.label, VALUES.runs[subject.run].name, r.estimator, r.spearman.value, r.spearman.low, r.spearman.high,
    r.spearman_within?.value, r.pearson?.value, r.spearman_unique?.value, r.logprob_control.value, r.num_tokens,
    r.num_prompts, r.num_rollouts, r.num_undefined, r.entropy_mean, r.strength_mean, r.accuracy?.value, r.accuracy?.low,
    r.accuracy?.high, r.accuracy_name,
  ]),
}));

function drawOverview() {
  const holder = $("forest");
  if (!holder) return;
  const rows = overviewRows().filter(({ reading }) => reading.spearman.value !== null).reverse();
  $("forest-figure").hidden = !rows.length;
  if (!rows.length) return;
  holder.style.height = `${70 + 26 * rows.length}px`;
  const narrow = holder.clientWidth < 520;
  const width = narrow ? 110 : 260;
  const name = ({ subject, reading }) => `${shorten(subject.label, narrow ? 12 : 34)} · ${reading.estimator}`;
  const label = `ρ with interval: ${rows.map((row) => `${name(row)} ${signed(row.reading.spearman.value)}`).reverse().join("; ")}`;
  chart(holder, ({ soft, ink }) => ({
    grid: { left: width + 12, right: 16, top: 8, bottom: 46 },
    xAxis: { type: "value", min: -1, max: 1, name: "ρ", nameGap: 26 },
    yAxis: { type: "category", data: rows.map(name), axisTick: { show: false },
      axisLabel: { color: ink, interval: 0 }, splitLine: { show: false } },
    series: [
      { type: "custom", silent: true, data: rows.map(({ subject, reading }, i) => [i, reading.spearman.low ?? NaN, reading.spearman.high ?? NaN, subject.place]),
        renderItem: (_, api) => {
          const [from, to] = [1, 2].map((d) => api.coord([api.value(d), api.value(0)]));
          if (!Number.isFinite(from[0]) || !Number.isFinite(to[0])) return null;
          return { type: "line", shape: { x1: from[0], y1: from[1], x2: to[0], y2: to[1] }, style: { stroke: colourOf(api.value(3)), lineWidth: 2.5 } };
        } },
      { type: "scatter", silent: true, symbolSize: 9, data: rows.map(({ subject, reading }, i) => ({ value: [reading.spearman.value, i], itemStyle: { color: colourOf(subject.place) } })),
        markLine: { silent: true, symbol: "none", label: { show: false }, lineStyle: { color: soft, type: "solid", width: 1 }, data: [{ xAxis: 0 }] } },
      { type: "scatter", silent: true, symbolSize: 7, data: rows.map(({ reading }, i) => [reading.logprob_control.value ?? NaN, i]),
        itemStyle: { color: "transparent", borderColor: soft, borderWidth: 1.2 } },
    ],
  }), label);
}
