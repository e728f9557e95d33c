// Ranks and Spearman's ρ, as the library computes them: average ranks for ties, float64, NaN left out.

/** Average ranks from 1 of the finite values; NaN elsewhere. */
export function averageRanks(values) {
  const ordered = finiteSorted(values);
  const ranks = new Float64Array(values.length).fill(NaN);
  for (let i = 0; i < values.length; i++) {
    if (!Number.isNaN(values[i])) ranks[i] = (lowerBound(ordered, values[i]) + upperBound(ordered, values[i]) + 1) / 2;
  }
  return ranks;
}

/** The values that are numbers, ascending. */
function finiteSorted(values) {
  const kept = new Float64Array(values.length);
  let count = 0;
  for (let i = 0; i < values.length; i++) if (!Number.isNaN(values[i])) kept[count++] = values[i];
  return kept.subarray(0, count).sort();
}

function lowerBound(ordered, value) {
  let low = 0, high = ordered.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ordered[middle] < value) low = middle + 1; else high = middle;
  }
  return low;
}

export function upperBound(ordered, value) {
  let low = 0, high = ordered.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ordered[middle] <= value) low = middle + 1; else high = middle;
  }
  return low;
}

/** Spearman's ρ over the pairs where both are numbers; NaN below 3 pairs or for a constant series. */
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

/** Value below which a share of the finite values lies. */
export function quantile(values, share) {
  const ordered = finiteSorted(values);
  if (!ordered.length) return NaN;
  const place = share * (ordered.length - 1), low = Math.floor(place);
  return ordered[low] + (place - low) * (ordered[Math.min(low + 1, ordered.length - 1)] - ordered[low]);
}

/** Mean of the last `width` finite values at each place. */
export function runningMean(values, width) {
  return values.map((_, i) => {
    const near = values.slice(Math.max(0, i - width + 1), i + 1).filter((value) => value !== null);
    return near.length ? near.reduce((sum, value) => sum + value, 0) / near.length : null;
  });
}

/** Pairs as a chart takes them. */
export const points = (steps, values) => steps.map((step, i) => [step, values[i] ?? NaN]);

/** Evenly spaced places of tokens that have both values. */
export function sampled(x, y, most, keep = () => true) {
  const places = [];
  for (let i = 0; i < x.length; i++) if (!Number.isNaN(x[i]) && !Number.isNaN(y[i]) && keep(i)) places.push(i);
  if (places.length <= most) return places;
  return Array.from({ length: most }, (_, i) => places[Math.floor((i * places.length) / most)]);
}
