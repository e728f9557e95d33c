// Token microscope: show the text of one rollout with every token shaded. The reader can select tokens in it.
import { $, counted, element, signed } from "./core.js";
import { blankName, endsLine, paragraphNodes, shorten, visible, visibleNodes } from "./text.js";
import { points, quantile, runningMean } from "./statistics.js";
import { SUBJECTS } from "./data.js";
import { active, change, estimatorOf, isSelected, listen, remember, rhoOf, state, strengthName, touches, unitOf } from "./state.js";
import { chart, diverging, lonely, ramp, rules, sequential } from "./charts.js";
import { CSV } from "./tables.js";
import { contributionOf, showDetails, tokenLine } from "./details.js";
import { otherScores, verdictOf, verdictWord } from "./verdicts.js";
import { besides, drawKept, rewardWord, trainingFacts, wireKept } from "./kept.js";
import { emptyText, firstShown, foldThought, nameThought, unfoldFor, wireThought } from "./thought.js";

const AT_ONCE = 3000;
const microscope = { count: AT_ONCE, tokens: [] };

// The contribution that gets the full colour. The largest possible one is 3, but few tokens come near it.
const STRONG = 2;

const SHADES = {
  contribution: "Blue tokens make the inversion: one signal is high and the other low. Orange tokens break it: both are high, or both are low.",
  difference: "Rank of entropy minus rank of strength. Blue: the rank of entropy is lower. Orange: it is higher. Strong colours of either kind make the inversion.",
  entropy: "Token entropy. The highest 2 % of the model's tokens have the full colour.",
  strength: "Gradient strength. The highest 2 % of the model's tokens have the full colour.",
  step: "Gradient strength of the step that holds the token. The highest 2 % of the steps have the full colour.",
};
// Shades that need the strengths of single tokens.
const OF_TOKENS = ["contribution", "difference", "strength"];

/** Return the function that gives the background of a token for the chosen shade. */
function shader(subject, shade) {
  const estimator = estimatorOf(subject), ranks = subject.ranks(estimator, state.cell);
  if (shade === "contribution") return (token) => diverging(-contributionOf(ranks, token) / STRONG);
  if (shade === "difference") return (token) => diverging(ranks.entropy[token] - ranks.strength[token]);
  if (shade === "step") return stepShader(subject, estimator);
  const values = shade === "entropy" ? subject.entropy : subject.strength(estimator, state.cell);
  const top = subject.once(`top ${shade} ${estimator} ${state.cell}`, () => quantile(values, 0.98) || 1);
  return (token) => sequential(values[token] / top);
}

function stepShader(subject, estimator) {
  const values = subject.steps?.strength[estimator], top = values && subject.once(`top steps ${estimator}`, () => quantile(values, 0.98) || 1);
  return (token) => {
    const place = subject.stepOf(token);
    return place < 0 || Number.isNaN(values[place]) ? "" : sequential(values[place] / top);
  };
}

/** Where no token's strength was measured, choose a shade that does not need it. */
function fitShade(subject) {
  if (subject.lacksTokens && OF_TOKENS.includes($("shade").value)) $("shade").value = subject.steps ? "step" : "entropy";
}

function visibleRollouts(subject) {
  const filter = $("filter").value, mask = state.selected.get(subject.place);
  const keep = {
    all: () => true,
    right: (rollout) => subject.rollouts[rollout].correct === true,
    wrong: (rollout) => subject.rollouts[rollout].correct === false,
    defined: (rollout) => Number.isFinite(rhoOf(subject, rollout)),
    selected: (rollout) => Boolean(mask) && mask.subarray(subject.starts[rollout], subject.starts[rollout + 1]).includes(1),
  }[filter];
  // Of a training, only the rollouts of one step are listed.
  const [from, to] = subject.isSampled ? besides(subject, state.rollout) : [0, subject.rollouts.length];
  return subject.rollouts.map((_, rollout) => rollout).filter((rollout) => rollout >= from && rollout < to && keep(rollout));
}

function fillRollouts() {
  const subject = active(), places = visibleRollouts(subject);
  $("rollout").replaceChildren(...places.map((rollout) => {
    const { id } = subject.rollouts[rollout], rho = rhoOf(subject, rollout);
    const words = [visible(id, 40), Number.isFinite(rho) ? `ρ ${signed(rho, 2)}` : "ρ undefined", verdictWord(subject.rollouts[rollout]), rewardWord(subject.rollouts[rollout])];
    return element("option", { value: rollout }, words.filter(Boolean).join(" · "));
  }));
  if (!places.length) $("rollout").append(element("option", { value: "" }, `no such rollout; shown below: ${shorten(subject.rollouts[state.rollout]?.id ?? "none", 30)}`));
  else $("rollout").value = String(places.includes(state.rollout) ? state.rollout : places[0]);
  fillUnits(subject);
  return places;
}

function fillUnits(subject) {
  const known = subject.units(state.cell), headline = subject.headline(estimatorOf(subject));
  $("unit").replaceChildren(...known.map((unit) => element("option", { value: unit }, unit + (unit !== headline ? "" : subject.isSampled ? " (reward)" : " (headline)"))));
  $("unit").value = unitOf(subject);
}

function drawText() {
  const subject = active(), rollout = state.rollout, from = subject.starts[rollout] ?? 0, to = subject.starts[rollout + 1] ?? 0;
  const strength = subject.strength(estimatorOf(subject), state.cell), first = firstShown(subject, rollout), last = Math.min(to, first + microscope.count);
  const beginnings = stepBeginnings(subject, rollout);
  microscope.tokens = [];
  for (let token = first; token < last; token++) {
    const text = subject.text(token);
    const made = element("span", { class: "tok", role: "option", tabindex: -1, "data-token": token, "aria-selected": "false", "aria-label": text.trim() ? null : blankName(text) }, subject.spaced[token] ? " " : "", ...visibleNodes(text || "∅"));
    if (endsLine(text)) made.classList.add("line");
    if (beginnings.has(token - from)) {
      made.classList.add("begins");
      made.dataset.step = beginnings.get(token - from);
    }
    if (Number.isNaN(strength[token]) && !subject.lacksTokens) made.classList.add("unmeasured");
    microscope.tokens.push(made);
  }
  // The page adds a line break after a token that ends a line.
  $("text").replaceChildren(...microscope.tokens.flatMap((made) => (made.classList.contains("line") ? [made, "\n"] : [made])));
  if (!microscope.tokens.length) $("text").append(element("span", { class: "tok", role: "option", "aria-selected": "false" }, emptyText(subject, rollout)));
  $("more").hidden = last >= to;
  fitShade(subject);
  paint();
  light();
  drawTrack();
  drawFacts();
}

/** Return the number of each step of a rollout, by the position of its first token. */
function stepBeginnings(subject, rollout) {
  const { starts, start } = subject.steps ?? {}, found = new Map();
  for (let place = starts?.[rollout] ?? 0; place < (starts?.[rollout + 1] ?? 0); place++) found.set(start[place], place - starts[rollout]);
  return found;
}

export function paint() {
  const subject = active(), shade = $("shade").value, colour = shader(subject, shade);
  for (const made of microscope.tokens) {
    const token = Number(made.dataset.token);
    made.style.background = made.classList.contains("unmeasured") && OF_TOKENS.includes(shade) ? "" : colour(token);
  }
  $("shade-legend").replaceChildren(ramp(shade === "contribution" || shade === "difference"), " ", SHADES[shade]);
}

function light() {
  const subject = active();
  nameThought(subject, state.rollout);
  for (const made of microscope.tokens) {
    const token = Number(made.dataset.token), lit = isSelected(subject, token);
    made.classList.toggle("lit", lit);
    made.setAttribute("aria-selected", String(lit));
    made.classList.toggle("here", token === state.token);
    made.tabIndex = token === state.token ? 0 : -1;
  }
  // The Tab key must reach one token.
  if (!microscope.tokens.some((made) => made.tabIndex === 0) && microscope.tokens.length) microscope.tokens[0].tabIndex = 0;
}

/** Draw the ranks of both signals along the rollout, in the colours of the figures. In an inverted rollout they move in opposite directions. */
function drawTrack() {
  const subject = active(), from = subject.starts[state.rollout] ?? 0, to = subject.starts[state.rollout + 1] ?? 0;
  const ranks = subject.ranks(estimatorOf(subject), state.cell), width = Math.max(1, Math.round((to - from) / 60));
  const along = (values) => runningMean(Array.from(values.subarray(from, to), (value) => (Number.isNaN(value) ? null : value)), width);
  const series = [["entropy", along(ranks.entropy)], [strengthName(), along(ranks.strength)]];
  const marked = state.token !== null && state.token >= from && state.token < to ? [{ xAxis: state.token - from }] : [];
  const few = to - from < 2 || subject.lacksTokens;
  $("track").parentElement.hidden = few;
  if (few) return;
  const drawn = chart($("track"), ({ ink, low, high }) => ({
    legend: { top: 0, itemWidth: 14, itemHeight: 6, textStyle: { color: ink } },
    grid: { left: 46, right: 12, top: 28, bottom: 40 },
    xAxis: { type: "value", min: 0, max: to - from - 1, name: "position", nameGap: 24, splitLine: { show: false }, minInterval: 1 },
    yAxis: { type: "value", min: 0, max: 1, name: "rank", nameGap: 30, interval: 0.5 },
    series: series.map(([name, values], i) => ({ type: "line", name, silent: true, ...lonely(values, { joined: true }), connectNulls: true, lineStyle: { width: 1.6 }, itemStyle: { color: i ? low : high }, data: points(values.map((_, place) => place), values),
      markLine: rules(ink, i ? [] : marked) })),
  }), `Ranks of entropy and strength along the rollout, ρ by token ${signed(subject.correlation(state.rollout, estimatorOf(subject), state.cell))}`);
  $("track-caption").textContent = `Ranks of both signals along the rollout${width > 1 ? `, mean of the last ${width} tokens` : ""}. Click to go to a token.`;
  if (!microscope.tracked) {
    microscope.tracked = true;
    drawn.getZr().on("click", (event) => {
      const own = active(), start = own.starts[state.rollout], count = own.starts[state.rollout + 1] - start;
      const place = Math.round(drawn.convertFromPixel({ xAxisIndex: 0 }, event.offsetX));
      if (place >= 0 && place < count) focusToken(own, start + place);
    });
  }
}

function drawFacts() {
  const subject = active(), rollout = subject.rollouts[state.rollout];
  if (!rollout) { $("rollout-facts").textContent = "This model has no rollouts."; return; }
  const estimator = estimatorOf(subject), rho = subject.units(state.cell).map((unit) => `by ${unit} ${signed(subject.correlation(state.rollout, estimator, state.cell, unit))}`);
  const count = subject.starts[state.rollout + 1] - subject.starts[state.rollout];
  const size = rollout.cut ? `the first ${counted(count)} of ${counted(count + rollout.cut)} tokens (ρ is over all of them)` : `${counted(count)} tokens`;
  const parts = [...trainingFacts(rollout), `ρ ${rho.join(", ")}`, size, stepCount(subject, state.rollout), rollout.finish ? `ended by ${visible(rollout.finish, 40)}` : null, verdictOf(rollout), otherScores(rollout),
    rollout.answer !== undefined ? `answer ${visible(rollout.answer, 80)}` : null, rollout.reference !== undefined ? `reference ${visible(rollout.reference, 80)}` : null];
  $("rollout-facts").textContent = parts.filter(Boolean).join(" · ");
  drawKept(goTo);
  const prompt = subject.prompts[rollout.prompt];
  $("prompt").hidden = prompt === undefined;
  $("prompt-text").replaceChildren(...paragraphNodes(prompt ?? ""));
}

function stepCount(subject, rollout) {
  if (!subject.steps) return null;
  const count = subject.steps.starts[rollout + 1] - subject.steps.starts[rollout];
  return count ? `${counted(count)} ${count === 1 ? "step" : "steps"}` : "no steps";
}

function toggleToken(subject, token) {
  const selected = new Map(state.selected), mask = Uint8Array.from(selected.get(subject.place) ?? new Uint8Array(subject.numTokens));
  mask[token] = mask[token] ? 0 : 1;
  selected.set(subject.place, mask);
  change({ selected });
  showDetails(subject, token);
}

/** Go to a token: choose its model and its rollout, and scroll to it. */
export function focusToken(subject, token) {
  const rollout = subject.rolloutOf(token);
  if (!visibleRollouts(subject).includes(rollout)) $("filter").value = "all";
  microscope.count = Math.max(AT_ONCE, token - subject.starts[rollout] + 200);
  change({ subject: subject.place, rollout, token });
  const made = microscope.tokens[token - firstShown(subject, rollout)];
  made?.scrollIntoView({ block: "nearest" });
}

/** Show a rollout of any model, and scroll to it. */
export function showRollout(subject, rollout) {
  $("filter").value = "all";
  microscope.count = AT_ONCE;
  change({ subject: subject.place, rollout, token: null });
  fillRollouts();
  $("tokens").scrollIntoView({ block: "start" });
  $("rollout").focus({ preventScroll: true });
}

function goTo(rollout) {
  microscope.count = AT_ONCE;
  if (rollout !== undefined && rollout !== null) change({ rollout, token: null });
}

function goBy(by) {
  const places = visibleRollouts(active()), here = places.indexOf(state.rollout);
  if (places.length) goTo(places[(here + by + places.length) % places.length]);
}

/** Go to the listed rollout with the lowest ρ (sign 1) or the highest ρ (sign −1). */
function extreme(sign) {
  const subject = active();
  let best = null, least = Infinity;
  for (const rollout of visibleRollouts(subject)) {
    const rho = sign * rhoOf(subject, rollout);
    if (rho < least) { least = rho; best = rollout; }
  }
  if (best === null) $("rollout-facts").textContent = "None of these rollouts has a ρ of its own.";
  else goTo(best);
}

function moveTo(index) {
  const made = microscope.tokens[Math.max(0, Math.min(microscope.tokens.length - 1, index))];
  if (!made) return;
  microscope.tokens.forEach((other) => { other.tabIndex = -1; });
  made.tabIndex = 0;
  made.focus();
}

function keyDown(event) {
  const here = microscope.tokens.indexOf(document.activeElement);
  if (here < 0) return;
  const moves = { ArrowRight: here + 1, ArrowLeft: here - 1, ArrowDown: here + 10, ArrowUp: here - 10, Home: 0, End: microscope.tokens.length - 1 };
  if (event.key in moves) { event.preventDefault(); moveTo(moves[event.key]); }
  if (event.key === "Enter" || event.key === " ") { event.preventDefault(); toggleToken(active(), Number(document.activeElement.dataset.token)); }
}

CSV.set("tokens", () => {
  const subject = active(), estimator = estimatorOf(subject), strength = subject.strength(estimator, state.cell), ranks = subject.ranks(estimator, state.cell);
  const from = subject.starts[state.rollout] ?? 0, to = subject.starts[state.rollout + 1] ?? 0;
  const rows = [];
  for (let i = from; i < to; i++) {
    rows.push([subject.label, estimator, state.cell ?? "mean", subject.rollouts[state.rollout].id, i - from, subject.text(i), subject.entropy[i], subject.logprob[i], strength[i],
      ranks.entropy[i], ranks.strength[i], contributionOf(ranks, i), isSelected(subject, i)]);
  }
  return { header: ["model", "estimator", "cell", "rollout_id", "position", "token", "entropy", "logprob", "strength", "entropy_rank", "strength_rank", "contribution", "selected"], rows };
});

/** Fill the list again. If the shown rollout is not in the list, show the first one of the list. */
function refilter() {
  const places = fillRollouts();
  if (places.length && !places.includes(state.rollout)) goTo(places[0]);
}

export function wireMicroscope() {
  const judged = SUBJECTS.some((subject) => subject.rollouts.some((rollout) => "correct" in rollout));
  for (const option of [...$("filter").options]) if (!judged && (option.value === "right" || option.value === "wrong")) option.remove();
  if (state.token !== null) microscope.count = Math.max(AT_ONCE, state.token - active().starts[state.rollout] + 200);
  unfoldFor(active(), state.rollout, state.token);
  wireThought(drawText);
  wireKept(goTo);
  fillRollouts();
  drawText();
  $("filter").addEventListener("change", refilter);
  $("rollout").addEventListener("change", () => goTo(Number($("rollout").value)));
  $("previous").addEventListener("click", () => goBy(-1));
  $("next").addEventListener("click", () => goBy(1));
  $("most").addEventListener("click", () => extreme(1));
  $("least").addEventListener("click", () => extreme(-1));
  $("unit").addEventListener("change", () => change({ unit: $("unit").value }));
  $("shade").addEventListener("change", () => { paint(); remember(); });
  $("more").addEventListener("click", () => { microscope.count += AT_ONCE; drawText(); });
  const tokenAt = (event) => event.target.closest?.("[data-token]");
  $("text").addEventListener("mouseover", (event) => { const made = tokenAt(event); if (made) showDetails(active(), Number(made.dataset.token)); });
  $("text").addEventListener("mouseleave", () => { if (state.token !== null) showDetails(active(), state.token); });
  $("text").addEventListener("focusin", (event) => {
    const made = tokenAt(event);
    if (!made) return;
    change({ token: Number(made.dataset.token) });
    $("spoken").textContent = tokenLine(active(), state.token);
  });
  $("text").addEventListener("click", (event) => { const made = tokenAt(event); if (made) { moveTo(microscope.tokens.indexOf(made)); toggleToken(active(), Number(made.dataset.token)); } });
  $("text").addEventListener("keydown", keyDown);
  listen((changed) => {
    if (touches(changed, "subject", "estimator", "cell", "unit") || (touches(changed, "selected") && $("filter").value === "selected")) refilter();
    if (touches(changed, "subject", "rollout")) foldThought();
    const opened = touches(changed, "subject", "rollout", "token") && unfoldFor(active(), state.rollout, state.token);
    const place = state.token === null ? 0 : state.token - firstShown(active(), state.rollout), away = opened || (place >= microscope.tokens.length && place > 0);
    if (away) microscope.count = Math.max(microscope.count, place + 200);
    if (touches(changed, "subject", "rollout", "estimator", "cell") || away) {
      if ($("rollout").value !== String(state.rollout)) fillRollouts();
      drawText();
    } else if (touches(changed, "selected", "token")) {
      light();
      if (touches(changed, "token")) drawTrack();
    }
    if (touches(changed, "token", "estimator", "cell", "subject") && state.token !== null) showDetails(active(), state.token);
  });
}
