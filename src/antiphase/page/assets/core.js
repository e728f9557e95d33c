// Small things that every view uses: elements, numbers as text, errors.
export const $ = (id) => document.getElementById(id);

/** Make an element with text or children. Text becomes text nodes; nothing is ever parsed as HTML. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "class") made.className = value;
    else if (key === "style") Object.assign(made.style, value);
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : String(value));
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return made;
}

const MINUS = "\u2212";

/** A number with this many significant digits, or a dash if it is undefined. */
export function number(value, digits = 3) {
  if (!Number.isFinite(value)) return "—";
  const size = Math.abs(value);
  if (value === 0) return "0";
  if (size < 1e-3 || size >= Math.max(1e6, 10 ** digits)) return value.toExponential(digits - 1).replaceAll("-", MINUS);
  return (size >= 10 ** digits ? String(Math.round(value)) : value.toPrecision(digits)).replace("-", MINUS);
}

/** The label of a number on an axis. It keeps all digits, so that neighbouring labels differ also in a small range. */
export function tick(value, digits = 10) {
  const text = number(value, digits);
  return text.includes(".") ? text.replace(/\.?0+(?=e|$)/, "") : text;
}

/** `+0.123`, in the form in which the overview prints ρ. */
export function signed(value, digits = 3) {
  if (!Number.isFinite(value)) return "undefined";
  const size = Math.abs(value).toFixed(digits);
  return Number(size) === 0 ? size : (value < 0 ? MINUS : "+") + size;
}

/** `+0.123 [+0.100, +0.146]`, or the value alone if there is no interval. */
export function withInterval(entry, digits = 3) {
  if (!entry) return "—";
  return signed(entry.value, digits) + ([entry.low, entry.high].every(Number.isFinite) ? ` [${signed(entry.low, digits)}, ${signed(entry.high, digits)}]` : "");
}

/** Only the interval, `[+0.100, +0.146]`, or a dash. */
export const endsOf = (entry) => withInterval(entry).split(" ").slice(1).join(" ") || "—";

export const counted = (count) => count.toLocaleString("en-GB");

/** A function that runs the action once nobody has called it for this long. */
export function debounced(action, milliseconds) {
  let timer = 0;
  return (...words) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...words), milliseconds);
  };
}

export function fail(error) {
  const place = $("failure");
  place.hidden = false;
  place.textContent = `This page could not be shown in full: ${error && error.message ? error.message : error}`;
  console.error(error);
}
