// The choices of the reader, the listeners that follow them, and the page address that stores them.
import { $, fail } from "./core.js";
import { SUBJECTS, UNITS } from "./data.js";

export const state = {
  subject: 0, // index of the model that views of one model show
  estimator: null,
  cell: null, // a cell such as `L3.Q`; null: the mean over all cells
  unit: null, // the unit of the ρ that the rollouts are compared by; null: the headline of the shown model
  shown: new Set(SUBJECTS.filter((subject) => !subject.isSampled).map((subject) => subject.place)),
  rollout: 0,
  token: null, // index among the subject's tokens
  selected: new Map(), // index of the subject → Uint8Array, 1 for a selected token
};

const listeners = [];
/** Call `action(changed)` after changes; `changed` is a set of names of `state`. */
export const listen = (action) => listeners.push(action);

/** Change the state and call every listener once. */
export function change(values) {
  const changed = new Set();
  for (const [name, value] of Object.entries(values)) {
    // A Map or a Set may be the same object with new content.
    if (state[name] !== value || (value !== null && typeof value === "object")) { state[name] = value; changed.add(name); }
  }
  if (!changed.size) return;
  for (const action of listeners) {
    try { action(changed); } catch (error) { fail(error); }
  }
  remember();
}

export const active = () => SUBJECTS[state.subject];
export const shownSubjects = () => SUBJECTS.filter((subject) => state.shown.has(subject.place));
export const touches = (changed, ...names) => names.some((name) => changed.has(name));

/** The estimator that is used for a model: the chosen one if it was measured, else the model's first one. */
export const estimatorOf = (subject, wanted = state.estimator) => (subject.estimators.includes(wanted) ? wanted : subject.estimators[0]);

/** The name of the strength in use. */
export const strengthName = () => (state.cell ? `strength ${state.cell}` : "strength");

/** The unit of the ρ that a model's rollouts are compared by: the chosen unit if it is known, else the headline, else the token. */
export function unitOf(subject) {
  const known = subject.units(state.cell);
  return [state.unit, subject.headline(estimatorOf(subject)), ...known].find((unit) => known.includes(unit));
}

/** ρ of a rollout over the unit of `unitOf`. */
export const rhoOf = (subject, rollout) => subject.correlation(rollout, estimatorOf(subject), state.cell, unitOf(subject));

export function numSelected() {
  let count = 0;
  for (const [place, mask] of state.selected) if (state.shown.has(place)) for (const flag of mask) count += flag;
  return count;
}

export const isSelected = (subject, token) => Boolean(state.selected.get(subject.place)?.[token]);

/**
 * Add a view. It is drawn when its section becomes visible. After a change of one of the named parts of the state, it is
 * drawn again as soon as it is visible. So a view that nobody looks at costs nothing.
 */
const views = [];
export function view(section, draw, ...names) {
  const entry = { stale: true, seen: false };
  entry.draw = () => { if (entry.stale) { entry.stale = false; draw(); } };
  views.push(entry);
  new IntersectionObserver((found) => {
    entry.seen = found.at(-1).isIntersecting;
    if (entry.seen) entry.draw();
  }, { rootMargin: "400px" }).observe($(section));
  listen((changed) => {
    if (!touches(changed, ...names)) return;
    entry.stale = true;
    if (entry.seen) entry.draw();
  });
}

export const drawAllViews = () => views.forEach((entry) => entry.draw());

const FIELDS = ["subject", "estimator", "cell", "unit", "rollout", "token"];
const SELECTS = ["axes", "shade"];

export function remember() {
  const words = new URLSearchParams();
  for (const name of FIELDS) if (state[name] !== null && state[name] !== 0) words.set(name, state[name]);
  for (const id of SELECTS) if ($(id) && $(id).selectedIndex > 0) words.set(id, $(id).value);
  try {
    history.replaceState(null, "", words.size ? `#${words}` : location.pathname.split("/").pop() || "#");
  } catch { /* a page in a frame may have no history */ }
}

/** Set the selects that an address names. */
export function recallSelects(hash) {
  const words = new URLSearchParams(hash.replace(/^#/, ""));
  for (const id of SELECTS) if ($(id) && [...$(id).options].some(({ value }) => value === words.get(id))) $(id).value = words.get(id);
}

/** The state that an address asks for. Parts that do not fit the data are ignored. */
export function recall(hash) {
  const words = new URLSearchParams(hash.replace(/^#/, ""));
  const found = {};
  const whole = (name, limit) => {
    const value = Number(words.get(name));
    if (words.has(name) && Number.isInteger(value) && value >= 0 && value < limit) found[name] = value;
  };
  whole("subject", SUBJECTS.length);
  const subject = SUBJECTS[found.subject ?? state.subject];
  if (!subject) return {};
  if (subject.estimators.includes(words.get("estimator"))) found.estimator = words.get("estimator");
  if (subject.cellPlace(estimatorOf(subject, found.estimator), words.get("cell")) >= 0) found.cell = words.get("cell");
  if (UNITS.includes(words.get("unit"))) found.unit = words.get("unit");
  whole("rollout", subject.rollouts.length);
  whole("token", subject.numTokens);
  if (found.token !== undefined) found.rollout = subject.rolloutOf(found.token);
  return found;
}
