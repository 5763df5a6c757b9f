// Runs to begin with: each shows one thing that denoising can do, with a seed that shows it.

const ONCE = { prompt: "Once upon a time", max_tokens: "64", suffix: "" };

const SCENE = {
  type: "object",
  properties: {
    hero: { enum: ["Lily", "Tom", "Max", "Mia"] },
    animal: { enum: ["dog", "cat", "bird", "bear"] },
    place: { enum: ["park", "forest", "beach", "house"] },
    friends: { type: "integer", minimum: 1, maximum: 9 },
    happy: { type: "boolean" },
  },
  required: ["hero", "animal", "place", "friends", "happy"],
  additionalProperties: false,
};

/**
 * `state` fills the form; `titles` name the runs; `note` says how to read them. `alone` runs one
 * after the other; `sync` and `speed` are those of the player. `needs` says what the model must have.
 * `body`, and `bodies` by run, are fields of the requests that the form does not have.
 */
export const PRESETS = {
  story: {
    name: "A story in 32 steps",
    state: { ...ONCE, seed: "6", variants: [{ steps: 32 }] },
  },
  race: {
    name: "Race: one at a time or all at once",
    state: { ...ONCE, seed: "6", variants: [{ steps: 64, sampler: "topk", block_length: 1, mixing_ratio: 0 }, { steps: 16 }] },
    titles: ["Left to right: a token a step", "Diffusion: 16 steps"],
    note: "The same model and seed, each alone on this server; the clocks are real, the playback is slowed. A network made for left to right, with its cache, would need less for a token.",
    alone: true,
    sync: "time",
    speed: 0.25,
    needs: ["topk"],
  },
  steps: {
    name: "8, 16, 32 or 64 steps",
    state: { ...ONCE, seed: "6", variants: [{ steps: 8 }, { steps: 16 }, { steps: 32 }, { steps: 64 }] },
  },
  gap: {
    name: "Fill the gap",
    state: { prompt: "Lily went to the park.", suffix: " Then they all went home.", max_tokens: "40", seed: "4", variants: [{ steps: 24 }] },
  },
  mind: {
    name: "Change its mind",
    state: { ...ONCE, seed: "6", variants: [0, 0.1, 0.5].map((k) => ({ steps: 32, sampler: "ancestral", mixing_ratio: k })) },
    titles: ["k = 0: what is written stays", "k = 0.1: a little doubt", "k = 0.5: much doubt"],
    note: "The mixing ratio k is the share of random tokens in the noise: above 0 the model may refine a token or mask it again.",
    needs: ["ancestral"],
  },
  digits: {
    name: "All ten digits at once",
    image: true,
    classes: 10,
    state: { class_label: "0", n: "1", seed: "5", variants: [{}] },
    body: { class_label: undefined, class_labels: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9] },
    note: "Ten canvases, each with a class of its own; every step of the model reads all of them together.",
  },
  sure: {
    name: "Sure enough",
    state: { ...ONCE, seed: "6", variants: [{ sampler: "threshold", confidence_threshold: 0.6 }, { sampler: "threshold", confidence_threshold: 0.9 }] },
    titles: ["Sure by 0.6", "Sure by 0.9"],
    note: "Each step writes every token that the model is sure enough of: a lower threshold needs fewer steps.",
    needs: ["threshold"],
  },
  json: {
    name: "Valid JSON in 8 steps",
    state: { prompt: "Lily saw a bird in the park. ", suffix: "", max_tokens: "48", seed: "4", variants: [{ steps: 8, sampler: "topk" }, { steps: 8, sampler: "topk" }] },
    bodies: [{ response_format: { type: "json_schema", json_schema: { schema: SCENE } } }, {}],
    titles: ["With a JSON schema", "The same without it"],
    note: "Each step draws all open positions together, from the texts that the schema allows: the answer is valid at any number of steps. Whether it is true is another matter, with a model of this size.",
    needs: ["topk"],
  },
};

/** The first model that a preset is for; undefined if none is. */
export function modelFor(preset, models) {
  const fits = ({ diffusion }) =>
    (diffusion.image !== null) === Boolean(preset.image) &&
    (preset.needs ?? []).every((sampler) => diffusion.samplers.includes(sampler)) &&
    diffusion.classes >= (preset.classes ?? 0);
  return models.find(fits);
}
