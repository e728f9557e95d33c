// Ranks and Spearman's ρ, as the library computes them: average ranks for ties, float64, NaN left out.

/** Average ranks from 1 of the finite values; NaN elsewhere. */
function averageRanks(values) {
  const ordered = Float64Array.from(values).filter((v) => !Number.isNaN(v)).sort();
  const ranks = new Float64Array(values.length).fill(NaN);
  for (let i = 0; i < values.length; i++) {
    if (!Number.isNaN(values[i])) ranks[i] = (lowerBound(ordered, values[i]) + upperBound(ordered, values[i]) + 1) / 2;
  }
  return ranks;
}

function lowerBound(ordered, value) {
  let low = 0, high = ordered.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ordered[middle] < value) low = middle + 1; else high = middle;
  }
  return low;
}

function upperBound(ordered, value) {
  let low = 0, high = ordered.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ordered[middle] <= value) low = middle + 1; else high = middle;
  }
  return low;
}

/** Spearman's ρ over the pairs where both are numbers; NaN below 3 pairs or for a constant series. */
function spearman(x, y) {
  const a = [], b = [];
  for (let i = 0; i < x.length; i++) {
    if (!Number.isNaN(x[i]) && !Number.isNaN(y[i])) { a.push(x[i]); b.push(y[i]); }
  }
  return a.length < 3 ? NaN : pearson(averageRanks(a), averageRanks(b));
}

function pearson(x, y) {
  const n = x.length;
  let meanX = 0, meanY = 0;
  for (let i = 0; i < n; i++) { meanX += x[i] / n; meanY += y[i] / n; }
  let xy = 0, xx = 0, yy = 0;
  for (let i = 0; i < n; i++) {
    const a = x[i] - meanX, b = y[i] - meanY;
    xy += a * b; xx += a * a; yy += b * b;
  }
  return xx === 0 || yy === 0 ? NaN : xy / Math.sqrt(xx) / Math.sqrt(yy);
}

function meanOf(values) {
  let sum = 0, count = 0;
  for (const value of values) if (!Number.isNaN(value)) { sum += value; count++; }
  return count ? sum / count : NaN;
}

/** Value below which a share of the finite values lies. */
function quantile(values, share) {
  const ordered = Float64Array.from(values).filter((v) => !Number.isNaN(v)).sort();
  if (!ordered.length) return NaN;
  const place = share * (ordered.length - 1), low = Math.floor(place);
  return ordered[low] + (place - low) * (ordered[Math.min(low + 1, ordered.length - 1)] - ordered[low]);
}
