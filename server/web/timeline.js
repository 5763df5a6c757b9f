// Frames of each run at each place of a common slider. Pure.

/**
 * Places of the slider: for each a frame of every run, and with `sync` "time" the milliseconds.
 * "progress" shows each run at the same share of its steps, "time" at the same elapsed time.
 */
export function timeline(runs, sync) {
  const shown = runs.filter((run) => run.length > 0);
  if (shown.length === 0) return { frames: [], times: [] };
  return sync === "time" ? byTime(runs) : byProgress(runs);
}

function byProgress(runs) {
  const places = Math.max(...runs.map((run) => run.expected));
  const frames = [];
  for (let at = 0; at < places; at += 1) {
    const share = places > 1 ? at / (places - 1) : 0;
    frames.push(
      runs.map((run) => clamped(Math.round(share * (run.expected - 1)), run)),
    );
  }
  return { frames, times: [] };
}

function byTime(runs) {
  const times = [...new Set(runs.flatMap(elapsed))].sort((a, b) => a - b);
  const frames = times.map((time) =>
    runs.map((run) => clamped(countUpTo(elapsed(run), time) - 1, run)),
  );
  return { frames, times };
}

const elapsed = (run) => (run.tracks[0]?.frames ?? []).map((frame) => frame.elapsed);
const clamped = (frame, run) => Math.max(0, Math.min(frame, run.length - 1));

/** How many of the sorted values are at most `limit`. */
export function countUpTo(values, limit) {
  let low = 0;
  let high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] <= limit) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** The last place that at least one run has reached with all of its choices. */
export function newest(runs, sync, places) {
  if (sync === "time" || runs.every((run) => run.ended)) return Math.max(0, places - 1);
  const shares = runs.map((run) => (run.ready - 1) / Math.max(1, run.expected - 1));
  return Math.max(0, Math.floor(Math.max(...shares) * (places - 1)));
}
