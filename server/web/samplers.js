// A small moving picture and a line of help for each sampler. The runs are drawn by hand, to show the rule.

import { h, reducedMotion } from "./dom.js";

const PACE = 620; // milliseconds of a step
const REST = 3; // paces that the end stays
const KINDS = { ".": "mask", n: "noise", "+": "unmask", "~": "refine", x: "remask", "#": "set" };

/** One text of twelve positions for each step: . mask, n noise, + unmask, ~ refine, x remask, # written. */
export const RULES = {
  ancestral: {
    help: "Draws each step from the exact posterior: masks become tokens, and above k = 0 a token may change or be masked again.",
    steps: ["...n....n...", "+..n....x.+.", "#..~.+....#.", "#+.#.#.+..#+", "x#+#+#.#+.##", "+####~+##+##", "############"],
  },
  topk: {
    help: "Fills a fixed number of masks at each step, the most confident first; above k = 0 it also refines some tokens.",
    steps: ["............", "..+....+....", "+.#....#.+..", "#.#+.+.~.#..", "#+##.#.#+#..", "####+#+##~.+", "##########+#", "############"],
  },
  threshold: {
    help: "Fills every mask that the model is sure enough of, so that easy texts take fewer steps.",
    steps: ["............", "+..........+", "#+.+.....+.#", "##+#++..+#+#", "######++####", "############"],
  },
  dream: {
    help: "Dream's own rule: a share of the masks that follows the time, the most certain first; a token stays once written.",
    steps: ["............", "....+.......", "..+.#..+....", ".+#.#.+#..+.", "+##+#+##.+#+", "########+###", "############"],
  },
  entropy_bound: {
    help: "DiffusionGemma's rule: accepts the positions whose entropies add up to a bound, and draws the others anew.",
    steps: ["nnnnnnnnnnnn", "+nn+nnnn+nnn", "#n+#n+nn#nn+", "#+##n#n+#+n#", "####+#+##~+#", "############"],
  },
  gidd: {
    help: "GIDD's posterior: masks and random tokens, whose share is largest halfway.",
    steps: ["............", "..+....n....", "n.#.+..x...+", "~.#+#n...+.#", "#+###~+.n#+#", "#######+~###", "############"],
  },
  remdm: {
    help: "ReMDM: masks become tokens, and some tokens become masks again.",
    steps: ["............", "+...+...+...", "#.+.x.+.#.+.", "#+#..+#.x.#.", "##x+.##+.+#+", "##+#+###+###", "############"],
  },
};

/** The picture of a sampler: it moves, or shows all steps one below the other where no motion is wanted. */
export function samplerPicture(name) {
  const { steps } = RULES[name] ?? {};
  if (!steps) return null;
  const row = () => h("span", { class: "rule-row" }, ...Array.from(steps[0], () => h("i")));
  const show = (node, step) => [...step].forEach((sign, at) => { node.children[at].className = KINDS[sign]; });
  const picture = h("span", { class: "rule", "data-rule": name, "aria-hidden": "true" });
  if (reducedMotion()) {
    for (const step of steps) {
      picture.append(row());
      show(picture.lastChild, step);
    }
    return picture;
  }
  picture.append(row());
  show(picture.firstChild, steps[0]);
  let at = 0;
  const timer = setInterval(() => {
    if (at && !picture.isConnected) clearInterval(timer);
    at = (at + 1) % (steps.length + REST);
    if (picture.offsetParent !== null) show(picture.firstChild, steps[Math.min(at, steps.length - 1)]);
  }, PACE);
  return picture;
}
