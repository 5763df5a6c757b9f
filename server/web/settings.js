// The form: request parameters of the served models, for one variant or for several.

import { Bars } from "./bars.js";
import { SHAPES } from "./budgets.js";
import { h, icon, ICONS } from "./dom.js";

const MOST_SETTINGS = 4;
const NAMES = "ABCD";

const SAMPLER = { name: "sampler", label: "Sampler", kind: "choice" };
const ELSEWHERE = ["seed"]; // has an input of its own, shared by all variants
const SCHEDULES = ["topk_absorb", "topk_uniform"];

export class Settings {
  /** `models` as listed by GET /v1/models. */
  constructor(models, form) {
    this.models = models;
    this.form = form;
    this.variants = [{}];
    this.active = 0;
    this.inputs = form.elements;
    this.tabs = form.querySelector(".tabs");
    this.grid = form.querySelector(".fields");
    this.schedules = form.querySelector(".schedules");
    this.absorb = new Bars("Masks filled", (values) => this.put("topk_absorb", values));
    this.uniform = new Bars("Tokens refined", (values) => this.put("topk_uniform", values));
    this.inputs.model.replaceChildren(...models.map(({ id }) => h("option", {}, id)));
    this.inputs.model.addEventListener("change", () => this.chosen());
    this.inputs.max_tokens.addEventListener("change", () => this.drawSchedules());
    this.chosen();
  }

  get model() {
    return this.models.find(({ id }) => id === this.inputs.model.value) ?? this.models[0];
  }

  get facts() {
    return this.model.diffusion;
  }

  get image() {
    return this.facts.image !== null;
  }

  /** Inputs for the request parameters that the model describes. Empty means the default. */
  get fields() {
    const [steps, ...others] = this.facts.request_parameters.filter(
      ({ name, kind }) => kind !== "schedule" && !ELSEWHERE.includes(name),
    );
    return [steps, SAMPLER, ...others];
  }

  get variant() {
    return this.variants[this.active];
  }

  get sampler() {
    return this.variant.sampler ?? this.facts.sampler;
  }

  /** Change the model, and show the parameters that it supports. */
  chosen() {
    const { facts, inputs } = this;
    const show = (name, on) => {
      this.form.querySelector(`[data-field=${name}]`).hidden = !on;
      if (inputs[name] instanceof Element) inputs[name].disabled = !on;
    };
    for (const name of ["prompt", "suffix", "max_tokens"]) show(name, !this.image);
    for (const name of ["class_label", "n"]) show(name, this.image);
    show("kind", facts.chat);
    inputs.max_tokens.max = facts.max_canvas;
    inputs.max_tokens.placeholder = facts.max_tokens ?? "";
    inputs.n.max = Math.min(16, facts.limits.choices);
    const classes = Array.from({ length: facts.classes }, (_, i) => i);
    inputs.class_label.replaceChildren(
      ...classes.map((i) => h("option", { value: i }, facts.class_names[i] ?? String(i))),
    );
    for (const variant of this.variants) {
      if (variant.sampler && !facts.samplers.includes(variant.sampler)) delete variant.sampler;
    }
    this.draw();
  }

  draw() {
    this.drawTabs();
    this.grid.replaceChildren(...this.fields.filter(({ name }) => this.read(name)).map((field) => this.field(field)));
    this.drawSchedules();
  }

  /** Whether the sampler of the shown variant uses a parameter. */
  read(name, sampler = this.sampler) {
    const readers = this.facts.fields[name];
    return readers === undefined || readers.includes(sampler);
  }

  drawTabs() {
    const several = this.variants.length > 1;
    const tabs = this.variants.map((_, i) =>
      h(
        "span",
        { class: "tab" },
        h("button", { type: "button", "aria-pressed": String(i === this.active), onclick: () => this.turn(i) }, several ? NAMES[i] : "Setting"),
        several
          ? h("button", { type: "button", class: "drop", "aria-label": `Remove setting ${NAMES[i]}`, onclick: () => this.drop(i) }, icon(ICONS.close))
          : null,
      ),
    );
    const add = h("button", { type: "button", class: "add", onclick: () => this.add() }, several ? "+" : "+ compare with another");
    add.setAttribute("aria-label", "Compare with another setting");
    this.tabs.replaceChildren(...tabs, ...(this.variants.length < MOST_SETTINGS ? [add] : []));
  }

  turn(i) {
    this.active = i;
    this.draw();
    this.tabs.querySelectorAll("[aria-pressed]")[i].focus();
  }

  add() {
    this.variants.push(structuredClone(this.variant));
    this.active = this.variants.length - 1;
    const steps = this.variant.steps ?? this.facts.steps;
    this.variant.steps = Math.max(1, Math.round(steps / 4)); // the most common comparison
    for (const name of SCHEDULES) delete this.variant[name];
    this.draw();
    this.grid.querySelector("[name=steps]").focus();
  }

  drop(i) {
    this.variants.splice(i, 1);
    this.active = Math.min(this.active, this.variants.length - 1);
    this.draw();
  }

  /** A value of the shown variant; undefined means the checkpoint's default. */
  put(name, value) {
    if (value === undefined || value === "") delete this.variant[name];
    else this.variant[name] = value;
  }

  field({ name, label, kind, choices, minimum, maximum, description }) {
    const own = this.facts[name];
    const value = this.variant[name];
    const changed = (event) => {
      const { value: text } = event.target;
      const typed = { number: Number, integer: Number, flag: (word) => word === "true" }[kind];
      this.put(name, typed && text !== "" ? typed(text) : text);
      if (name === "sampler") {
        for (const { name: other } of this.fields) if (!this.read(other)) this.put(other);
        for (const other of SCHEDULES) if (!this.read(other)) this.put(other);
        this.draw();
        this.grid.querySelector("[name=sampler]").focus();
      }
      if (name === "steps") {
        for (const other of SCHEDULES) this.put(other);
        this.drawSchedules();
      }
    };
    let input;
    if (kind === "choice" || kind === "flag") {
      const words = kind === "flag" ? ["false", "true"] : choices;
      const options = name === "sampler" ? this.facts.samplers : words;
      const usual = own ?? options[0];
      input = h(
        "select",
        { name, onchange: changed },
        ...options.map((one) =>
          h("option", { value: one === usual ? "" : one, selected: one === String(value ?? usual) }, one.replaceAll("_", " ")),
        ),
      );
    } else {
      const max = name === "steps" ? this.facts.limits.steps : maximum;
      const step = kind === "integer" ? 1 : "any";
      input = h("input", {
        type: "number", name, min: minimum, max, step, inputmode: "decimal",
        placeholder: own ?? "auto", value: value ?? "", onchange: changed,
      });
    }
    return h("label", { "data-field": name, title: description }, h("span", {}, label), input);
  }

  drawSchedules() {
    const on = this.read("topk_absorb") && !this.image;
    this.schedules.hidden = !on;
    if (!on) return;
    const steps = this.variant.steps ?? this.facts.steps;
    const total = Number(this.inputs.max_tokens.value) || this.facts.max_tokens;
    const absorb = this.variant.topk_absorb;
    const fits = Array.isArray(absorb) && absorb.reduce((a, b) => a + b, 0) === total;
    if (absorb && !fits) this.put("topk_absorb");
    this.absorb.load(fits ? absorb : SHAPES.even(total, steps), total);
    this.uniform.load(this.variant.topk_uniform ?? new Array(steps).fill(0), null);
    const shapes = Object.entries(SHAPES).map(([name, shape]) =>
      h("button", { type: "button", onclick: () => this.shape(name === "even" ? undefined : shape(total, steps)) }, name),
    );
    const automatic = this.variant.topk_uniform ? "" : " (automatic, until you draw)";
    this.schedules.replaceChildren(
      h("h3", {}, `Masks filled at each step, ${total} in all`),
      this.absorb.node,
      h("div", { class: "shapes" }, ...shapes),
      h("h3", {}, `Tokens refined at each step${automatic}`),
      this.uniform.node,
      h(
        "div",
        { class: "shapes" },
        h("button", { type: "button", onclick: () => this.refine() }, "auto"),
        h("button", { type: "button", onclick: () => this.refine(new Array(steps).fill(0)) }, "none"),
        h("button", { type: "button", onclick: () => this.refine(new Array(steps).fill(2)) }, "two"),
      ),
    );
  }

  shape(values) {
    this.put("topk_absorb", values);
    this.drawSchedules();
  }

  refine(values) {
    this.put("topk_uniform", values);
    this.drawSchedules();
  }

  get chat() {
    return !this.image && this.facts.chat && this.inputs.kind.value === "chat";
  }

  /** The state that a link contains. */
  get state() {
    const { inputs } = this;
    const kept = { model: this.model.id, seed: inputs.seed.value, variants: this.variants };
    const own = this.image ? ["class_label", "n"] : ["prompt", "suffix", "max_tokens"];
    for (const name of own) kept[name] = inputs[name].value;
    if (this.chat) kept.kind = "chat";
    return kept;
  }

  /** Fill the form; unknown fields are ignored. */
  set state(kept) {
    const { inputs } = this;
    if (this.models.some(({ id }) => id === kept.model)) inputs.model.value = kept.model;
    this.chosen();
    for (const name of ["prompt", "suffix", "max_tokens", "seed", "class_label", "n"]) {
      if (["string", "number"].includes(typeof kept[name])) inputs[name].value = kept[name];
    }
    inputs.kind.value = kept.kind === "chat" ? "chat" : "completion";
    const given = Array.isArray(kept.variants) ? kept.variants.slice(0, MOST_SETTINGS) : [];
    const names = [...this.fields.map(({ name }) => name), ...SCHEDULES];
    this.variants = given.map((variant) => known(variant, names));
    if (this.variants.length === 0) this.variants = [{}];
    this.active = 0;
    this.draw();
  }

  /** Bodies for the trajectory route, one per variant, all with the same seed; and their titles. */
  bodies(seed) {
    const { inputs } = this;
    const shared = { model: this.model.id, seed };
    if (this.image) {
      shared.class_label = Number(inputs.class_label.value);
      if (inputs.n.value) shared.n = Number(inputs.n.value);
    } else {
      shared.prompt = inputs.prompt.value;
      if (inputs.suffix.value) shared.suffix = inputs.suffix.value;
      if (inputs.max_tokens.value) shared.max_tokens = Number(inputs.max_tokens.value);
    }
    return this.variants.map((variant, i) => ({ body: { ...shared, ...variant }, title: this.title(variant, i) }));
  }

  title(variant, i) {
    const sampler = variant.sampler ?? this.facts.sampler;
    const parts = [`${variant.steps ?? this.facts.steps} steps`, sampler];
    const skipped = ["steps", "sampler", ...SCHEDULES];
    const others = this.fields.filter(({ name }) => name in variant && !skipped.includes(name));
    parts.push(...others.map(({ name, label }) => `${label.toLowerCase()} ${variant[name]}`));
    if (variant.topk_absorb || variant.topk_uniform) parts.push("own schedule");
    return (this.variants.length > 1 ? `${NAMES[i]}: ` : "") + parts.join(" · ");
  }

  /** Mark the field that an error names; false if it is not visible. */
  blame(param) {
    const input = this.form.querySelector(`[name="${CSS.escape(param ?? "")}"]:not(:disabled)`);
    if (!input || input.offsetParent === null) return false;
    input.setAttribute("aria-invalid", "true");
    input.addEventListener("input", () => input.removeAttribute("aria-invalid"), { once: true });
    input.focus();
    return true;
  }
}

/** The known fields of a variant that a link contains. */
function known(given, names) {
  const found = {};
  for (const name of names) {
    const value = given?.[name];
    const list = SCHEDULES.includes(name) && Array.isArray(value) && value.every(Number.isInteger);
    if (list || ["number", "string", "boolean"].includes(typeof value)) found[name] = value;
  }
  return found;
}
