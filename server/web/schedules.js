// The schedules of the topk sampler as bars, and the fields of a setting that a link may hold.

import { Bars } from "./bars.js";
import { SHAPES } from "./budgets.js";
import { h } from "./dom.js";

export const SCHEDULES = ["topk_absorb", "topk_uniform"];

/** Bars in `node`; `put(name, values)` sets a schedule of the shown setting, undefined for the default. */
export class Schedules {
  constructor(node, put) {
    Object.assign(this, { node, put });
    this.absorb = new Bars("Masks filled", (values) => put("topk_absorb", values));
    this.uniform = new Bars("Tokens refined", (values) => put("topk_uniform", values));
  }

  /** Show the schedules of a setting, if its sampler has them. */
  show(on, variant, steps, total) {
    this.node.hidden = !on;
    if (!on) return;
    const absorb = variant.topk_absorb;
    const fits = Array.isArray(absorb) && absorb.reduce((a, b) => a + b, 0) === total;
    if (absorb && !fits) this.put("topk_absorb");
    this.absorb.load(fits ? absorb : SHAPES.even(total, steps), total);
    this.uniform.load(variant.topk_uniform ?? new Array(steps).fill(0), null);
    const again = () => this.show(on, variant, steps, total);
    const button = (name, label, values) =>
      h("button", { type: "button", onclick: () => { this.put(name, values); again(); } }, label);
    const shapes = Object.entries(SHAPES).map(([name, shape]) =>
      button("topk_absorb", name, name === "even" ? undefined : shape(total, steps)),
    );
    const automatic = variant.topk_uniform ? "" : " (automatic, until you draw)";
    const refined = { auto: undefined, none: new Array(steps).fill(0), two: new Array(steps).fill(2) };
    this.node.replaceChildren(
      h("h3", {}, `Masks filled at each step, ${total} in all`),
      this.absorb.node,
      h("div", { class: "shapes" }, ...shapes),
      h("h3", {}, `Tokens refined at each step${automatic}`),
      this.uniform.node,
      h("div", { class: "shapes" }, ...Object.entries(refined).map(([label, values]) => button("topk_uniform", label, values))),
    );
  }
}

/** The known fields of a variant that a link contains. */
export function known(given, names) {
  const found = {};
  for (const name of names) {
    const value = given?.[name];
    const list = SCHEDULES.includes(name) && Array.isArray(value) && value.every(Number.isInteger);
    if (list || ["number", "string", "boolean"].includes(typeof value)) found[name] = value;
  }
  return found;
}
