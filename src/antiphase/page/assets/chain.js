// The links of the paper's chain from entropy to strength, and the controls, each with a sentence that explains its ρ.
import { $, element, endsOf, signed, withInterval } from "./core.js";
import { visible } from "./text.js";
import { active, estimatorOf, shownSubjects, view } from "./state.js";
import { CSV, fillTable } from "./tables.js";

const MAIN_LINKS = ["entropy–logit", "logit–hidden", "hidden–strength"];
const SERIES = { entropy: "H", logit: "z", hidden_norm: "‖h‖", hidden_norm_before: "‖h‖ before the last norm", unembedding_norm: "‖w‖", strength: "strength" };
// For each link: what a negative ρ says, what a positive ρ says, and what is undecided if the interval contains 0.
const LINK_WORDS = {
  "entropy–logit": ["Where the model is certain, the logit of the token that it wrote is large.", "Where the model is certain, the logit of the token that it wrote is small.", "whether the tokens of a certain model have large logits"],
  "logit–hidden": ["Tokens with a large logit have a small hidden state after the last norm.", "Tokens with a large logit have a large hidden state after the last norm.", "whether a large logit comes with a large hidden state after the last norm"],
  "hidden–strength": ["A large hidden state after the last norm goes with weak gradients.", "A large hidden state after the last norm goes with strong gradients.", "whether a large hidden state after the last norm goes with strong gradients"],
  "logit–hidden_before": ["Tokens with a large logit have a small hidden state before the last norm.", "Tokens with a large logit have a large hidden state before the last norm.", "whether a large logit comes with a large hidden state before the last norm"],
  "hidden_before–strength": ["A large hidden state before the last norm goes with weak gradients.", "A large hidden state before the last norm goes with strong gradients.", "whether a large hidden state before the last norm goes with strong gradients"],
  "unembedding–strength": ["Tokens with a long output vector have weak gradients. The argument leaves this out.", "Tokens with a long output vector have strong gradients. The argument leaves this out.", "whether the length of a token's output vector goes with its strength"],
  "unembedding–entropy": ["Tokens with a long output vector are written where the model is certain.", "Tokens with a long output vector are written where the model is uncertain.", "whether the length of a token's output vector goes with entropy"],
};
const CONTROL_NAMES = {
  logprob: "‖∂ ln p/∂z‖, which follows entropy by construction", unembedding_norm: "‖w‖, the length of the token's output vector",
  position: "place of the token in the completion", frequency: "how often the token occurs in this run", together: "‖w‖, place and frequency together",
  surprisal: "−ln p of the token", impurity: "1 − Σ p², the Gini impurity", attention_entropy: "entropy of the attention weights",
};

// These controls are functions of the distribution whose entropy is H.
const SAME_DISTRIBUTION = ["logprob", "surprisal", "impurity"];

const decided = ({ value, low, high }) => [value, low, high].every(Number.isFinite) && (low > 0 || high < 0);

function linkSentence(link) {
  const words = LINK_WORDS[link.link];
  if (link.value === null) return "This link has no value, because a series is constant or was not measured.";
  if (!words) return "";
  return decided(link) ? words[link.value > 0 ? 1 : 0] : `These prompts do not decide ${words[2]}.`;
}

function controlSentence(name, control, rho) {
  const { partial } = control, held = name === "together" ? "them" : "it";
  if (partial.value === null) return `With ${held} held fixed, ρ is undefined.`;
  const after = !decided(partial) ? "cannot be told from 0" : Math.sign(partial.value) === Math.sign(rho?.value ?? 0) ? "keeps its sign" : "has the other sign";
  return `With ${held} held fixed, ρ ${after}.${SAME_DISTRIBUTION.includes(name) ? " This says little, because the control is a function of the same distribution." : ""}`;
}

const seriesName = (name) => SERIES[name] ?? visible(name, 40);

function linkCard(link) {
  return element("li", { class: "card" }, element("p", { class: "link" }, `${seriesName(link.x)} → ${seriesName(link.y)}`),
    element("p", {}, element("strong", {}, `ρ ${withInterval(link)}`)),
    element("p", {}, element("span", { class: `verdict ${link.verdict === "opposite" ? "opposite" : link.verdict === "as the paper says" ? "agrees" : ""}` }, visible(link.verdict, 40)), link.expected === "none" ? "" : ` (the paper: ${visible(link.expected, 20)})`),
    element("p", { class: "meta" }, linkSentence(link)));
}

export function drawChain() {
  const subject = active(), reading = subject.reading(estimatorOf(subject)), chain = reading?.chain ?? [];
  $("chain-view").hidden = !chain.length;
  $("chain-none").hidden = chain.length > 0;
  if (!chain.length) return;
  const main = chain.filter(({ link }) => MAIN_LINKS.includes(link)), others = chain.filter(({ link }) => !MAIN_LINKS.includes(link));
  $("chain-links").replaceChildren(...main.map(linkCard));
  fillTable($("chain-table"), "Other links", ["also", "ρ", "95 % interval", "verdict", "what it says"], others.map((link) => [
    element("span", {}, `${seriesName(link.x)} → ${seriesName(link.y)}`), { text: signed(link.value) }, { text: endsOf(link) }, element("span", {}, visible(link.verdict, 40)), element("span", {}, linkSentence(link))]));
  const rho = reading.units.token, cell = (entry) => ({ text: withInterval(entry) });
  fillTable($("controls-table"), "Controls", ["control", "ρ with entropy", "ρ with strength", "ρ of both, control held fixed", "what it says"], [
    [element("span", {}, "none"), { text: "—" }, { text: "—" }, cell(rho), element("span", {}, "ρ over tokens as it is.")],
    ...Object.entries(reading.controls).map(([name, control]) => [element("span", {}, CONTROL_NAMES[name] ?? visible(name, 40)), cell(control.entropy), cell(control.strength), cell(control.partial), element("span", {}, controlSentence(name, control, rho))]),
  ]);
}

const chainRows = (pick) => shownSubjects().flatMap((subject) => subject.readings.flatMap((reading) => pick(reading).map((row) => [subject.label, reading.estimator, ...row])));

CSV.set("chain", () => ({
  header: ["model", "estimator", "link", "x", "y", "spearman", "low", "high", "expected", "verdict"],
  rows: chainRows((reading) => reading.chain.map((l) => [l.link, l.x, l.y, l.value, l.low, l.high, l.expected, l.verdict])),
}));

CSV.set("controls", () => ({
  header: ["model", "estimator", "control", "of", "spearman", "low", "high"],
  rows: chainRows((reading) => Object.entries(reading.controls).flatMap(([name, control]) => Object.entries(control).map(([of, entry]) => [name, of, entry.value, entry.low, entry.high]))),
}));

export function wireChain() {
  view("chain", drawChain, "subject", "estimator");
}
