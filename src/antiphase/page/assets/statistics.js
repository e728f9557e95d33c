// Ranks and Spearman's ρ, computed as in the library: ties get average ranks, numbers are float64, NaN is left out.

/** The ranks of the values, from 1, with average ranks for ties; NaN for NaN. */
export function averageRanks(values) {
  const ordered = finiteSorted(values);
  const ranks = new Float64Array(values.length).fill(NaN);
  for (let i = 0; i < values.length; i++) {
    if (!Number.isNaN(values[i])) ranks[i] = (upperBound(ordered, values[i], true) + upperBound(ordered, values[i]) + 1) / 2;
  }
  return ranks;
}

/** The values that are not NaN, in ascending order. */
function finiteSorted(values) {
  const kept = new Float64Array(values.length);
  let count = 0;
  for (let i = 0; i < values.length; i++) if (!Number.isNaN(values[i])) kept[count++] = values[i];
  return kept.subarray(0, count).sort();
}

/** How many of the ascending values are at most `value`, or below it if `strict`. */
export function upperBound(ordered, value, strict = false) {
  let low = 0, high = ordered.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ordered[middle] < value || (!strict && ordered[middle] === value)) low = middle + 1; else high = middle;
  }
  return low;
}

/** Spearman's ρ over the pairs without NaN; NaN for fewer than 3 pairs or a constant series. */
export function spearman(x, y) {
  const a = new Float64Array(x.length), b = new Float64Array(x.length);
  let count = 0;
  for (let i = 0; i < x.length; i++) {
    if (!Number.isNaN(x[i]) && !Number.isNaN(y[i])) { a[count] = x[i]; b[count] = y[i]; count++; }
  }
  return count < 3 ? NaN : pearson(averageRanks(a.subarray(0, count)), averageRanks(b.subarray(0, count)));
}

function pearson(x, y) {
  const n = x.length;
  let meanX = 0, meanY = 0;
  for (let i = 0; i < n; i++) { meanX += x[i]; meanY += y[i]; }
  meanX /= n; meanY /= n;
  let xy = 0, xx = 0, yy = 0;
  for (let i = 0; i < n; i++) {
    const a = x[i] - meanX, b = y[i] - meanY;
    xy += a * b; xx += a * a; yy += b * b;
  }
  return xx === 0 || yy === 0 ? NaN : xy / Math.sqrt(xx) / Math.sqrt(yy);
}

export function meanOf(values) {
  let sum = 0, count = 0;
  for (const value of values) if (!Number.isNaN(value)) { sum += value; count++; }
  return count ? sum / count : NaN;
}

/** The value below which this share of the values lies. */
export function quantile(values, share) {
  const ordered = finiteSorted(values);
  if (!ordered.length) return NaN;
  const place = share * (ordered.length - 1), low = Math.floor(place);
  return ordered[low] + (place - low) * (ordered[Math.min(low + 1, ordered.length - 1)] - ordered[low]);
}

/** For each place, the mean of the values among the last `width` places; null values are left out. */
export function runningMean(values, width) {
  return values.map((_, i) => {
    const near = values.slice(Math.max(0, i - width + 1), i + 1).filter((value) => value !== null);
    return near.length ? near.reduce((sum, value) => sum + value, 0) / near.length : null;
  });
}

/** The pairs [step, value] that a chart draws. */
export const points = (steps, values) => steps.map((step, i) => [step, values[i] ?? NaN]);

/** At most `most` evenly spaced indices of the tokens that have both values. */
export function sampled(x, y, most, keep = () => true) {
  const places = [];
  for (let i = 0; i < x.length; i++) if (!Number.isNaN(x[i]) && !Number.isNaN(y[i]) && keep(i)) places.push(i);
  if (places.length <= most) return places;
  return Array.from({ length: most }, (_, i) => places[Math.floor((i * places.length) / most)]);
}
