// A canvas that a person has edited, as the body of a run that writes the rest. Pure.

const OWN = ["prompt", "suffix", "max_tokens", "infill", "n", "echo", "logprobs", "latency_budget_ms"];

/**
 * The body of a run that starts from a frame of a track. `edit` is {kind, position, id}: "keep" a
 * token, or "replace" it by an id, and write all others again; or "mask" it again, and write it and
 * the masks of the frame.
 */
export function rerun(run, track, frame, { kind, position, id }) {
  if (track.mask === null) throw new Error("this model has no mask, so that nothing can be written again");
  const { ids } = track.state(frame);
  const prompt = Array.from(ids, (one, at) => {
    if (kind === "mask") return at === position ? track.mask : one;
    if (at === position) return kind === "replace" ? id : one;
    return track.editable[at] ? track.mask : one;
  });
  if (!prompt.includes(track.mask)) throw new Error("nothing is left to write");
  const kept = Object.entries(run.created.request).filter(([name]) => !OWN.includes(name) && !name.startsWith("topk_"));
  return { ...Object.fromEntries(kept), prompt, infill: true, max_tokens: 0, seed: track.seed };
}

/**
 * The likeliest `tokens` of a position, [text, probability], and the `entropy` of its distribution in nats, from the
 * answer of the same run with log-probabilities; null where it has none.
 */
export function likeliest(choice, track, position) {
  const at = position - track.editable.indexOf(1);
  const found = choice.logprobs?.top_logprobs?.[at];
  if (!found) return null;
  const tokens = Object.entries(found)
    .map(([text, log]) => [text, Math.exp(log)])
    .sort((a, b) => b[1] - a[1]);
  return { tokens, entropy: choice.logprobs.entropies?.[at] ?? null };
}
