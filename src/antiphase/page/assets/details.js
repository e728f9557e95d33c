// Show the details of one token: its numbers, its alternatives, and its strength by layer.
import { $, counted, element, number, signed, tick } from "./core.js";
import { blankName, shorten, visible, visibleNodes } from "./text.js";
import { estimatorOf, state, strengthName } from "./state.js";
import { chart, colourOf, dispose, theme } from "./charts.js";
import { fillTable } from "./tables.js";

let detailTurn = 0;

export async function showDetails(subject, token) {
  const turn = ++detailTurn, estimator = estimatorOf(subject), holder = $("details");
  if (!holder) return;
  const ranks = subject.ranks(estimator, state.cell), strength = subject.strength(estimator, state.cell)[token];
  const probability = Math.exp(subject.logprob[token]), place = token - subject.starts[subject.rolloutOf(token)];
  const contribution = contributionOf(ranks, token);
  const facts = [
    ["probability", number(probability)], ["entropy", `${number(subject.entropy[token])} nats`],
    ["strength", Number.isNaN(strength) ? "not measured" : number(strength)],
    ["rank of entropy", number(ranks.entropy[token], 2)], ["rank of strength", number(ranks.strength[token], 2)],
    ["contribution to ι", Number.isNaN(contribution) ? "—" : `${signed(contribution, 2)}, ${contribution > 0 ? "makes the inversion" : "breaks the inversion"}`],
    ["position", counted(place)], ...stepFacts(subject, token, estimator),
  ];
  const alternatives = element("div"), profile = element("div", { class: "chart" }), note = element("p", { class: "meta" });
  const old = holder.querySelector(".chart");
  if (old) dispose(old);
  holder.replaceChildren(
    element("h3", {}, ...visibleNodes(subject.text(token) || "(empty)", 200)),
    element("dl", {}, facts.map(([name, text]) => [element("dt", {}, name), element("dd", {}, text)])), alternatives, profile, note,
  );
  profile.hidden = true;
  const others = await subject.alternativesOf(token);
  if (turn !== detailTurn) return;
  if (others?.length) showAlternatives(alternatives, others, subject.text(token));
  const detailed = subject.detailPlace(token);
  if (subject.hasCells(estimator) && detailed >= 0) {
    await subject.loadCells(estimator);
    if (turn === detailTurn) showProfile(profile, note, subject, estimator, detailed);
  } else if (subject.cells && Object.keys(subject.cells).length && detailed < 0) {
    note.textContent = "This file does not hold the layers and alternatives of this rollout.";
  }
}

/** The facts about the step that holds a token. */
function stepFacts(subject, token, estimator) {
  const place = subject.stepOf(token);
  if (place < 0) return [];
  const step = subject.step(place, estimator);
  return [["step", `${counted(step.number)}, of ${counted(step.tokens)} ${step.tokens === 1 ? "token" : "tokens"}`],
    ["entropy of the step", `${number(step.entropy)} nats`], ["strength of the step", Number.isNaN(step.strength) ? "not measured" : number(step.strength)]];
}

function showAlternatives(holder, others, own) {
  const table = element("table");
  const bar = (share) => element("span", { class: "bar", style: { width: `${Math.round(share * 70)}px` } });
  const rows = others.map(({ text, probability }) => [
    element("span", {}, ...(text.trim() ? visibleNodes(text, 30) : [blankName(text)]), text === own ? " ◂" : ""), { text: number(probability, 2) }, element("span", {}, bar(probability))]);
  fillTable(table, "Most probable tokens here", ["alternative", "p", ""], rows);
  table.tHead.rows[0].cells[2].replaceWith(element("td"));
  holder.replaceChildren(table);
}

function showProfile(holder, note, subject, estimator, place) {
  const { layers, projections } = subject.reading(estimator);
  const values = projections.map((_, p) => layers.map((__, l) => subject.cellValue(estimator, l * projections.length + p, place)));
  const flat = values.flat().filter((value) => value > 0);
  if (!flat.length) return;
  holder.hidden = false;
  const most = projections.map((name, p) => {
    const top = values[p].reduce((best, value, l) => (value > values[p][best] ? l : best), 0);
    return `${name} is strongest at layer ${layers[top]} (${number(values[p][top])})`;
  });
  chart(holder, ({ ink }) => ({
    legend: { top: 0, itemWidth: 14, itemHeight: 6, textStyle: { color: ink, fontSize: 11 }, data: projections },
    grid: { left: 44, right: 8, top: 26, bottom: 38 },
    xAxis: { type: "category", data: layers.map(String), name: "layer", nameGap: 22 },
    yAxis: { type: "log", axisLabel: { formatter: (value) => tick(value, 1), color: theme().soft, hideOverlap: true } },
    series: projections.map((name, p) => ({ type: "line", name, showSymbol: layers.length === 1, lineStyle: { width: 1.5 }, itemStyle: { color: colourOf(p) }, data: values[p].map((value) => (value > 0 ? value : NaN)) })),
  }), `Strength by layer: ${most.join("; ")}`);
  note.textContent = most.join("; ") + ".";
}

/** The contribution of a token to ι: −12 (rank of entropy − ½)(rank of strength − ½). Its mean over all tokens is ι. */
export const contributionOf = (ranks, token) => -12 * (ranks.entropy[token] - 0.5) * (ranks.strength[token] - 0.5);

/** One line about a token: its text, entropy and strength. */
export function tokenLine(subject, token) {
  const strength = subject.strength(estimatorOf(subject), state.cell)[token];
  return `${shorten(subject.label, 40)}: “${visible(subject.text(token), 40)}”, entropy ${number(subject.entropy[token])} nats, ${strengthName()} ${number(strength)}`;
}
