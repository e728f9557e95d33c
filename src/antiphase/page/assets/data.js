// The data of the page: JSON, and packed columns. Some columns are unpacked only when they are needed.
import { $ } from "./core.js";
import { averageRanks, spearman, upperBound } from "./statistics.js";

export const VALUES = JSON.parse($("values").textContent);
const TYPES = { uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, float32: Float32Array, float64: Float64Array };

function bytesOf(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const raw = atob(text), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes;
}

/** Unpack a column that `packed` in packing.py made. */
async function unpack({ blob, dtype, length }) {
  const holder = $(`blob-${blob}`);
  const stream = new Blob([bytesOf(holder.textContent)]).stream().pipeThrough(new DecompressionStream("deflate"));
  const planes = new Uint8Array(await new Response(stream).arrayBuffer());
  const made = new TYPES[dtype](length), width = made.BYTES_PER_ELEMENT;
  if (planes.length !== length * width) throw new Error(`column ${blob} is damaged`);
  if (width === 1) return planes;
  const bytes = new Uint8Array(made.buffer);
  for (let plane = 0; plane < width; plane++) {
    for (let i = 0, from = plane * length; i < length; i++) bytes[i * width + plane] = planes[from + i];
  }
  return made;
}

async function unpackAll(columns) {
  for (const name of Object.keys(columns)) columns[name] = await unpack(columns[name]);
}

export const UNITS = ["type", "token", "step"];

/** The ranges of rollouts, as [first, last + 1], that one policy wrote: those of one step of a training, or all. */
function cohortsOf(rollouts) {
  const found = [];
  rollouts.forEach(({ kept }, place) => {
    if (place && kept?.step === rollouts[place - 1].kept?.step) found.at(-1)[1] = place + 1;
    else found.push([place, place + 1]);
  });
  return found;
}

/** A model with its tokens. The main columns are unpacked at the start, the details on demand. */
class Subject {
  constructor(entry, place) {
    Object.assign(this, entry);
    this.place = place;
    this.numTokens = this.starts[this.starts.length - 1];
    this.known = new Map();
    this.detailPlaces = new Map(this.detailed.map((rollout, index) => [rollout, index]));
    this.cohorts = cohortsOf(this.rollouts);
  }

  /** Whether a training kept these rollouts. The page then shows no numbers over all of them, because the policy changed. */
  get isSampled() { return this.rewardUnit !== null; }

  /** Whether only the strengths of steps were measured, and those of no token. */
  get lacksTokens() {
    return this.once("lacksTokens", () => this.isSampled && this.numTokens > 0 && Object.values(this.strengths).every((values) => values.every(Number.isNaN)));
  }

  get estimators() { return Object.keys(this.strengths); }

  reading(estimator) { return this.readings.find((reading) => reading.estimator === estimator) ?? null; }

  async load() {
    const names = ["token", "entropy", "logprob", "spaced"];
    const columns = await Promise.all(names.map((name) => unpack(this[name])));
    names.forEach((name, index) => { this[name] = columns[index]; });
    await Promise.all([this.strengths, ...Object.values(this.byUnit)].map(unpackAll));
    if (!this.steps) return;
    await Promise.all([unpackAll(this.steps.entropy), unpackAll(this.steps.strength)]);
    for (const name of ["start", "tokens", "position"]) this.steps[name] = await unpack(this.steps[name]);
  }

  text(token) { return VALUES.vocabulary[this.token[token]]; }

  rolloutOf(token) { return upperBound(this.starts, token) - 1; }

  once(key, make) {
    if (!this.known.has(key)) this.known.set(key, make());
    return this.known.get(key);
  }

  /** Index of the first token of each detailed rollout among the detailed tokens; the last entry is their number. */
  get detailStarts() {
    return this.once("detailStarts", () => {
      const starts = [0];
      for (const rollout of this.detailed) starts.push(starts.at(-1) + this.starts[rollout + 1] - this.starts[rollout]);
      return starts;
    });
  }

  /** Index of a token among the detailed tokens, or −1. */
  detailPlace(token) {
    const rollout = this.rolloutOf(token), place = this.detailPlaces.get(rollout);
    return place === undefined ? -1 : this.detailStarts[place] + token - this.starts[rollout];
  }

  hasCells(estimator) { return Boolean(this.cells && this.cells[estimator]); }

  /** Unpack the strengths by layer and projection of an estimator. */
  async loadCells(estimator) {
    if (!this.hasCells(estimator)) return null;
    return this.once(`cells ${estimator}`, async () => {
      const { low, high } = this.cells[estimator];
      const levels = await unpack(this.cells[estimator]);
      this.known.set(`levels ${estimator}`, { levels, low, high, width: this.detailStarts.at(-1) });
    });
  }

  /** Strength of a detailed token in one cell (its index in layers × projections). */
  cellValue(estimator, cell, place) {
    const found = this.known.get(`levels ${estimator}`);
    if (!found || place < 0) return NaN;
    const level = found.levels[cell * found.width + place];
    if (level === 0) return NaN;
    return level === 1 ? 0 : Math.exp(found.low + ((level - 2) / 65533) * (found.high - found.low));
  }

  /** Index of a cell such as `L3.Q` in this model's layers × projections, or −1. */
  cellPlace(estimator, cell) {
    const reading = this.reading(estimator), match = /^L(\d+)\.(\w)$/.exec(cell ?? "");
    if (!reading || !match) return -1;
    const layer = reading.layers.indexOf(Number(match[1])), projection = reading.projections.indexOf(match[2]);
    return layer < 0 || projection < 0 ? -1 : layer * reading.projections.length + projection;
  }

  /** Strength of every token: the mean over all cells, or that of one cell, whose values must be loaded. */
  strength(estimator, cell) {
    if (!cell) return this.strengths[estimator] ?? this.once("unmeasured", () => new Float32Array(this.numTokens).fill(NaN));
    return this.once(`strength ${estimator} ${cell}`, () => {
      const place = this.cellPlace(estimator, cell), values = new Float32Array(this.numTokens).fill(NaN);
      if (place < 0 || !this.hasCells(estimator)) return values;
      this.detailed.forEach((rollout, index) => {
        const from = this.starts[rollout], count = this.starts[rollout + 1] - from;
        for (let i = 0; i < count; i++) values[from + i] = this.cellValue(estimator, place, this.detailStarts[index] + i);
      });
      return values;
    });
  }

  /** Ranks from 0 to 1 of entropy and strength, among the tokens that have both; in a training among those of one step. */
  ranks(estimator, cell) {
    return this.once(`ranks ${estimator} ${cell}`, () => {
      const strength = this.strength(estimator, cell);
      const entropy = Float64Array.from(this.entropy, (value, i) => (Number.isNaN(strength[i]) ? NaN : value));
      const found = { entropy: new Float64Array(this.numTokens), strength: new Float64Array(this.numTokens) };
      for (const [first, last] of this.cohorts) {
        const from = this.starts[first], to = this.starts[last], own = entropy.subarray(from, to);
        const count = own.reduce((sum, value) => sum + (Number.isNaN(value) ? 0 : 1), 0);
        const scaled = (values) => averageRanks(values).map((rank) => (rank - 0.5) / count);
        found.entropy.set(scaled(own), from);
        found.strength.set(scaled(strength.subarray(from, to)), from);
      }
      return found;
    });
  }

  /** The units over which the ρ of a rollout is known. For a single cell, and in old runs, this is the token alone. */
  units(cell) { return cell ? ["token"] : UNITS.filter((unit) => (unit === "token" ? !this.lacksTokens : this.byUnit[`spearman_${unit}`])); }

  /** The unit whose ρ stands for the rollouts: the headline of the run, or the unit of the reward. */
  headline(estimator) { return this.reading(estimator)?.headline ?? this.rewardUnit; }

  /** ρ of a rollout over a unit. For the mean strength it comes from the table; for one cell it is computed here. */
  correlation(rollout, estimator, cell, unit = "token") {
    if (!cell && unit !== "token") return this.ofRollout(`spearman_${unit}`, rollout, estimator);
    if (!cell) return this.correlations[estimator]?.[rollout] ?? NaN;
    return this.once(`correlation ${estimator} ${cell} ${rollout}`, () => {
      const from = this.starts[rollout], to = this.starts[rollout + 1];
      return spearman(this.entropy.subarray(from, to), this.strength(estimator, cell).subarray(from, to));
    });
  }

  /** A column of rollouts.parquet. */
  ofRollout(column, rollout, estimator) { return this.byUnit[column]?.[estimator]?.[rollout] ?? NaN; }

  /** Index of the step that holds a token, or −1. */
  stepOf(token) {
    if (!this.steps || token === null) return -1;
    const rollout = this.rolloutOf(token), from = this.steps.starts[rollout], own = this.steps.start.subarray(from, this.steps.starts[rollout + 1]);
    return own.length ? from + upperBound(own, token - this.starts[rollout]) - 1 : -1;
  }

  /** The row of steps.parquet for a step. */
  step(place, estimator) {
    const { starts, start, tokens, position, entropy, strength } = this.steps, rollout = upperBound(starts, place) - 1;
    return { rollout, number: place - starts[rollout], start: start[place], tokens: tokens[place], position: position[place], entropy: entropy[estimator][place], strength: strength[estimator][place] };
  }

  /** The most probable alternatives to a token, or null. */
  async alternativesOf(token) {
    const place = this.detailPlace(token);
    if (!this.alternatives || place < 0) return null;
    const { count, step } = this.alternatives;
    const [words, steps] = await this.once("alternatives", () => Promise.all([unpack(this.alternatives.token), unpack(this.alternatives.logprob)]));
    const found = [];
    for (let rank = 0; rank < count; rank++) {
      if (steps[place * count + rank] === 65535) continue;
      found.push({ text: VALUES.vocabulary[words[place * count + rank]], probability: Math.exp(-steps[place * count + rank] * step) });
    }
    return found;
  }
}

export const SUBJECTS = VALUES.subjects.map((entry, place) => new Subject(entry, place));
