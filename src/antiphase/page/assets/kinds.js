// Tokens by kind (forking tokens, reasoning markers, numbers, operators): show both signals and their ρ within each kind.
import { $, counted, debounced, element, number, signed } from "./core.js";
import { shorten } from "./text.js";
import { meanOf, quantile, spearman } from "./statistics.js";
import { VALUES } from "./data.js";
import { estimatorOf, shownSubjects, state, view } from "./state.js";
import { chart, colourOf, rules, swatch } from "./charts.js";
import { CSV, fillTable } from "./tables.js";

const KINDS = ["all", "forking", "marker", "number", "operator", "other"];
const KIND_NAMES = { all: "all tokens", forking: "forking (highest entropy)", marker: "reasoning markers", number: "numbers", operator: "operators", other: "none of these" };
const NUMBER = /^[($€£#]?\p{Nd}[\p{Nd}.,:/%]*$/u;
const OPERATOR = /^[-+−*×·÷/=<>≤≥≠≈^%±∑√→⇒]+$/u;
const kindOptions = { markers: new Set(VALUES.markers), share: VALUES.forkingShare };

/** The kinds that the text of a token decides. The kind `forking` depends on entropy instead. */
function kindsOfText(text) {
  const bare = text.trim(), word = bare.toLowerCase().replace(/^[^\p{L}]+|[^\p{L}]+$/gu, "");
  const found = [];
  if (word && kindOptions.markers.has(word)) found.push("marker");
  if (NUMBER.test(bare)) found.push("number");
  if (bare && OPERATOR.test(bare)) found.push("operator");
  return found;
}

/** The rows of the table, one for each shown model and kind, with the count, the means and ρ. */
function kindRows() {
  const known = new Map();
  return shownSubjects().filter((subject) => subject.numTokens).flatMap((subject) => {
    const strength = subject.strength(estimatorOf(subject), state.cell), places = Object.fromEntries(KINDS.map((kind) => [kind, []]));
    const measured = Float64Array.from(subject.entropy, (value, i) => (Number.isNaN(strength[i]) ? NaN : value));
    const edge = quantile(measured, 1 - kindOptions.share);
    for (let token = 0; token < subject.numTokens; token++) {
      if (Number.isNaN(measured[token])) continue;
      const word = subject.token[token];
      if (!known.has(word)) known.set(word, kindsOfText(VALUES.vocabulary[word]));
      const kinds = known.get(word);
      places.all.push(token);
      for (const kind of kinds) places[kind].push(token);
      if (measured[token] >= edge) places.forking.push(token);
      else if (!kinds.length) places.other.push(token);
    }
    return KINDS.map((kind) => {
      const entropy = places[kind].map((i) => subject.entropy[i]), own = places[kind].map((i) => strength[i]);
      return { subject, kind, count: places[kind].length, share: places[kind].length / places.all.length, entropy: meanOf(entropy), strength: meanOf(own),
        rho: places[kind].length < minTokens(subject) ? NaN : spearman(entropy, own) };
    });
  });
}

const minTokens = (subject) => subject.reading(estimatorOf(subject))?.min_tokens ?? 8;

CSV.set("kinds", () => ({
  header: ["model", "estimator", "cell", "kind", "num_tokens", "share", "entropy_mean", "strength_mean", "spearman"],
  rows: kindRows().map((row) => [row.subject.label, estimatorOf(row.subject), state.cell ?? "mean", row.kind, row.count, row.share, row.entropy, row.strength, row.rho]),
}));

export function drawKinds() {
  const rows = kindRows();
  fillTable($("kinds-table"), "Tokens by kind", ["model", "kind", "tokens", "share", "mean entropy", "mean strength", "ρ"], rows.map((row) => [
    element("span", {}, swatch(colourOf(row.subject.place)), element("bdi", {}, shorten(row.subject.label, 60))), element("span", {}, KIND_NAMES[row.kind]), { text: counted(row.count) }, { text: Number.isFinite(row.share) ? `${(100 * row.share).toFixed(1)} %` : "—" },
    { text: number(row.entropy) }, { text: number(row.strength) }, { text: signed(row.rho) }]));
  const subjects = shownSubjects().filter((subject) => subject.numTokens);
  const spoken = rows.filter((row) => row.subject === subjects[0]).map((row) => `${KIND_NAMES[row.kind]} ${signed(row.rho, 2)}`);
  $("kinds-chart").style.height = `${80 + KINDS.length * Math.max(22, 6 * subjects.length)}px`;
  const narrow = $("kinds-chart").clientWidth < 520;
  chart($("kinds-chart"), ({ ink, soft }) => ({
    grid: { left: narrow ? 110 : 190, right: 16, top: 8, bottom: 46 },
    xAxis: { type: "value", min: -1, max: 1, name: "ρ within the kind", nameGap: 26 },
    yAxis: { type: "category", inverse: true, data: KINDS.map((kind) => KIND_NAMES[kind]), axisTick: { show: false },
      axisLabel: { color: ink, interval: 0, width: narrow ? 100 : 180, overflow: "truncate" } },
    series: subjects.map((subject, i) => ({
      type: "scatter", silent: true, symbolSize: 9, symbolOffset: [0, (i - (subjects.length - 1) / 2) * Math.min(8, 60 / subjects.length)], itemStyle: { color: colourOf(subject.place) },
      data: rows.filter((row) => row.subject === subject).map((row) => [row.rho, KIND_NAMES[row.kind]]),
      markLine: i ? undefined : rules(soft, [{ xAxis: 0 }]),
    })),
  }), `ρ within each kind of token${subjects[0] ? `, ${shorten(subjects[0].label, 60)}: ${spoken.join("; ")}` : ""}`);
}

export function wireKinds() {
  $("markers").value = VALUES.markers.join(", ");
  $("forking").value = String(Number((100 * VALUES.forkingShare).toPrecision(6)));
  $("kinds-form").addEventListener("submit", (event) => event.preventDefault());
  $("markers").addEventListener("input", debounced(() => {
    kindOptions.markers = new Set($("markers").value.toLowerCase().split(",").map((word) => word.trim()).filter(Boolean));
    drawKinds();
  }, 250));
  $("forking").addEventListener("input", debounced(() => {
    const share = Number($("forking").value) / 100, good = share > 0 && share < 1;
    $("forking").setCustomValidity(good ? "" : "Between 0 and 100.");
    $("forking").reportValidity();
    if (good) { kindOptions.share = share; drawKinds(); }
  }, 250));
  view("kinds", drawKinds, "cell", "estimator", "shown");
}
