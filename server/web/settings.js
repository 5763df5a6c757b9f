// The form: request parameters of the served models, for one variant or for several.

import { h, icon, ICONS } from "./dom.js";
import { RULES, samplerPicture } from "./samplers.js";
import { known, SCHEDULES, Schedules } from "./schedules.js";

const MOST_SETTINGS = 4;
const NAMES = "ABCD";

const SAMPLER = { name: "sampler", label: "Sampler", kind: "choice" };
const MOST_GUESSES = 200_000; // positions × steps of a run that is asked for guesses
const ELSEWHERE = ["seed"]; // has an input of its own, shared by all variants

/** Fires "changed" when another model, setting or value is shown. */
export class Settings extends EventTarget {
  /** `models` as listed by GET /v1/models. */
  constructor(models, form) {
    super();
    this.models = models;
    this.form = form;
    this.variants = [{}];
    this.active = 0;
    this.inputs = form.elements;
    this.tabs = form.querySelector(".tabs");
    this.grid = form.querySelector(".fields");
    this.bars = new Schedules(form.querySelector(".schedules"), (name, values) => this.put(name, values));
    this.inputs.model.replaceChildren(...models.map(({ id }) => h("option", {}, id)));
    this.inputs.model.addEventListener("change", () => this.chosen());
    for (const kind of form.querySelectorAll("[name=kind]")) kind.addEventListener("change", () => this.turnKind());
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
    this.turnKind();
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

  /** Show the fields of a conversation, or those of a text. */
  turnKind() {
    const system = this.chat && this.facts.chat_system !== false;
    this.form.querySelector("[data-field=system]").hidden = !system;
    this.form.querySelector("[data-field=suffix]").hidden = this.image || this.chat;
    this.inputs.suffix.disabled = this.image || this.chat;
    this.dispatchEvent(new Event("changed"));
  }

  /** The system prompt; empty where there is none. */
  get system() {
    return this.chat && this.facts.chat_system !== false ? this.inputs.system.value : "";
  }

  draw() {
    this.drawTabs();
    this.grid.replaceChildren(...this.fields.filter(({ name }) => this.read(name)).map((field) => this.field(field)));
    this.drawSchedules();
    this.dispatchEvent(new Event("changed"));
  }

  /** Steps of the shown setting. */
  get steps() {
    return this.variant.steps ?? this.facts.steps;
  }

  setSteps(steps) {
    this.put("steps", Math.min(steps, this.facts.limits.steps));
    for (const other of SCHEDULES) this.put(other);
    this.draw();
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
        this.dispatchEvent(new Event("changed"));
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
    const sampler = name === "sampler" ? this.sampler : null;
    const help = h("p", { class: "help", id: `help-${name}` }, sampler ? RULES[sampler]?.help : description);
    input.setAttribute("aria-describedby", help.id);
    return h("div", { "data-field": name }, h("label", {}, h("span", {}, label), input), sampler && samplerPicture(sampler), help);
  }

  drawSchedules() {
    const total = Number(this.inputs.max_tokens.value) || this.facts.max_tokens;
    this.bars.show(this.read("topk_absorb") && !this.image, this.variant, this.steps, total);
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
    this.turnKind();
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
      if (inputs.suffix.value && !this.chat) shared.suffix = inputs.suffix.value;
      if (inputs.max_tokens.value) shared.max_tokens = Number(inputs.max_tokens.value);
    }
    return this.variants.map((variant, i) => ({ body: { ...shared, ...variant }, title: this.title(variant, i) }));
  }

  /** A body with the field that adds guesses to its steps, where its model and sampler have them. */
  withGuesses(body) {
    const { diffusion } = this.models.find(({ id }) => id === body.model) ?? this.model;
    const able = diffusion.fields.trajectory_guesses ?? [];
    const many = (body.max_tokens ?? diffusion.max_tokens) * (body.steps ?? diffusion.steps) > MOST_GUESSES;
    const may = !many && diffusion.image === null && able.includes(body.sampler ?? diffusion.sampler);
    return may ? { ...body, trajectory_guesses: true } : body;
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

  /** Show an error at the field that it names; false if there is none. */
  blame(param, message) {
    this.clear();
    const input = this.form.querySelector(`[name="${CSS.escape(param ?? "")}"]:not(:disabled)`);
    if (!input) return false;
    this.dispatchEvent(new CustomEvent("blamed", { detail: input }));
    if (input.offsetParent === null) return false;
    input.setAttribute("aria-invalid", "true");
    input.setAttribute("aria-describedby", "why");
    (input.closest("[data-field]") ?? input).after(h("p", { class: "why bad", id: "why", role: "alert" }, message));
    input.addEventListener("input", () => this.clear(), { once: true });
    input.focus();
    return true;
  }

  /** Remove the error of a field. */
  clear() {
    this.form.querySelector("#why")?.remove();
    for (const input of this.form.querySelectorAll("[aria-invalid]")) {
      input.removeAttribute("aria-invalid");
      if (this.form.querySelector(`#help-${input.name}`)) input.setAttribute("aria-describedby", `help-${input.name}`);
      else input.removeAttribute("aria-describedby");
    }
  }
}
