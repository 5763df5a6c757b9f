// Step schedules as lists of integers. Pure functions.

/** `total` divided evenly over `steps`; earlier steps get the remainder. */
export function even(total, steps) {
  const base = Math.floor(total / steps);
  return Array.from({ length: steps }, (_, i) => base + (i < total - base * steps ? 1 : 0));
}

/** Set one entry and change others so that the sum stays the same, later steps first. */
export function balanced(budget, at, value, total) {
  const next = [...budget];
  next[at] = Math.max(0, Math.min(value, total));
  const order = [];
  for (let i = 1; i < next.length; i += 1) order.push((at + i) % next.length);
  let over = next.reduce((sum, one) => sum + one, 0) - total;
  for (const i of order) {
    if (over <= 0) break;
    const taken = Math.min(over, next[i]);
    next[i] -= taken;
    over -= taken;
  }
  for (let i = 0; over < 0 && order.length > 0; i += 1, over += 1) next[order[i % order.length]] += 1;
  if (over < 0) next[at] -= over;
  return next;
}

/** Schedules by name: number of masks to fill at each step. */
export const SHAPES = {
  even,
  early: (total, steps) => shaped(total, steps, (x) => 2 * (1 - x)),
  late: (total, steps) => shaped(total, steps, (x) => 2 * x),
  middle: (total, steps) => shaped(total, steps, (x) => 1 - Math.cos(2 * Math.PI * x)),
};

/** Round by largest remainders, so that the sum is exact. */
function shaped(total, steps, weight) {
  const weights = Array.from({ length: steps }, (_, i) => weight((i + 0.5) / steps));
  const sum = weights.reduce((a, b) => a + b, 0);
  const exact = weights.map((one) => (one / sum) * total);
  const whole = exact.map(Math.floor);
  const left = total - whole.reduce((a, b) => a + b, 0);
  const order = exact.map((one, i) => [one - whole[i], i]).sort((a, b) => b[0] - a[0] || a[1] - b[1]);
  for (const [, i] of order.slice(0, left)) whole[i] += 1;
  return whole;
}
