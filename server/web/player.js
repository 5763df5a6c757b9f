// Runs side by side with one set of playback controls. Used by the page and by exported files.

import { h, icon, ICONS, reducedMotion } from "./dom.js";
import { countUpTo, newest, timeline } from "./timeline.js";

const BASE = 15; // steps a second at speed 1
const SPEEDS = [0.1, 0.25, 0.5, 1, 2, 4];

export class Player extends EventTarget {
  constructor() {
    super();
    this.panes = [];
    this.at = 0;
    this.sync = "progress";
    this.colours = "changes";
    this.speed = 1;
    this.playing = false;
    this.line = { frames: [], times: [] };
    this.stage = h("div", { class: "panes" });
    this.build();
    this.dark = matchMedia("(prefers-color-scheme: dark)");
    this.dark.addEventListener("change", () => this.restyle());
  }

  build() {
    const button = (name, path, act) =>
      h("button", { type: "button", class: "round", "aria-label": name, title: name, onclick: act }, icon(path));
    this.playButton = button("Play", ICONS.play, () => this.toggle());
    this.slider = h("input", {
      type: "range", min: 0, max: 0, value: 0, class: "scrub", "aria-label": "Step",
      oninput: () => this.seek(Number(this.slider.value)),
    });
    this.told = h("output", { class: "place" }, "0");
    this.speedSelect = h(
      "select",
      { "aria-label": "Speed", onchange: () => { this.speed = Number(this.speedSelect.value); } },
      ...SPEEDS.map((one) => h("option", { value: one, selected: one === 1 }, `${one}×`)),
    );
    this.throttle = h("p", { class: "throttle", role: "status" });
    this.syncBox = choice("Side by side at the same", { progress: "By progress", time: "By time" }, "progress", (value) => {
      this.set(value);
      this.seek(this.line.frames.length - 1);
    });
    this.syncBox.hidden = true;
    this.coloursBox = choice("Colour", { changes: "Changes", confidence: "Confidence", plain: "Plain" }, "changes", (value) => {
      this.colours = value;
      this.legend.dataset.colours = value;
      this.draw();
    });
    this.layoutBox = choice("Layout", { text: "Text", tiles: "Tiles" }, "text", (value) => {
      this.stage.classList.toggle("tiles", value === "tiles");
      for (const pane of this.panes) pane.relax();
      this.draw();
    });
    this.legend = legend();
    this.options = h("div", { class: "options" }, this.coloursBox, this.layoutBox, this.syncBox);
    this.bar = h(
      "div",
      { class: "transport", role: "group", "aria-label": "Transport" },
      h(
        "div", { class: "buttons" },
        button("First step", ICONS.first, () => this.seek(0)),
        button("Step back", ICONS.back, () => this.seek(this.at - 1)),
        this.playButton,
        button("Step forward", ICONS.forward, () => this.seek(this.at + 1)),
        button("Last step", ICONS.last, () => this.seek(Infinity)),
      ),
      this.slider,
      this.told,
      this.speedSelect,
    );
    this.node = h("div", { class: "player", hidden: true }, this.options, this.stage, this.legend, this.bar, this.throttle);
  }

  /** Replace the panes. */
  load(panes) {
    this.pause();
    this.panes = panes;
    this.at = 0;
    this.place = 0;
    this.stage.replaceChildren(...panes.map((pane) => pane.node));
    this.stage.dataset.count = panes.length;
    this.syncBox.hidden = panes.length < 2;
    this.refresh();
    this.draw();
  }

  /** Show runs at the same share of their steps or at the same time, and at a speed. */
  set(sync = "progress", speed = this.speed) {
    this.sync = sync;
    this.syncBox.querySelector(`[value=${sync}]`).checked = true;
    this.speed = speed;
    this.speedSelect.value = speed;
    this.refresh();
  }

  get runs() {
    return this.panes.map((pane) => pane.run);
  }

  /** Update after new records. */
  refresh() {
    const { runs } = this;
    this.line = timeline(runs, this.sync);
    this.slider.max = Math.max(0, this.line.frames.length - 1);
    const image = runs.some((run) => run.image);
    this.layoutBox.hidden = image || runs.length === 0;
    this.node.hidden = runs.length === 0;
    this.legend.toggleAttribute("data-guesses", runs.some((run) => run.guesses));
    if (!this.playing || this.at === 0) this.draw();
  }

  /** The last place that can be shown so far. */
  get newest() {
    return newest(this.runs, this.sync, this.line.frames.length);
  }

  seek(place) {
    this.pause();
    this.go(place);
  }

  /** Move to the place at which a pane shows a frame. */
  seekFrame(pane, frame) {
    const i = this.panes.indexOf(pane);
    const place = this.line.frames.findIndex((frames) => frames[i] >= frame);
    this.seek(place < 0 ? Infinity : place);
  }

  go(place) {
    this.at = Math.max(0, Math.min(place, this.newest));
    this.place = this.at;
    this.draw();
    this.dispatchEvent(new Event("moved"));
  }

  draw() {
    const frames = this.line.frames[this.at];
    this.slider.value = this.at;
    const last = Math.max(0, this.line.frames.length - 1);
    this.told.textContent = `${this.at} / ${last}`;
    this.slider.setAttribute("aria-valuetext", `step ${this.at} of ${last}`);
    this.slider.style.setProperty("--done", `${last ? (this.at / last) * 100 : 0}%`);
    this.panes.forEach((pane, i) => {
      pane.show(frames?.[i] ?? 0, this.colours);
      pane.clock(this.line.times[this.at]);
    });
  }

  restyle() {
    for (const pane of this.panes) pane.restyle();
    this.draw();
  }

  toggle() {
    if (this.playing) this.pause();
    else this.play();
  }

  play() {
    if (this.line.frames.length === 0 && this.runs.every((run) => run.ended)) return;
    if (this.at >= this.newest && this.runs.every((run) => run.ended)) this.go(0);
    this.playing = true;
    this.button(true);
    this.place = this.at;
    this.clock = this.line.times[this.at] ?? 0;
    this.before = null;
    this.meter = { from: null, ticks: 0 };
    this.throttle.textContent = "";
    requestAnimationFrame((now) => this.tick(now));
  }

  pause() {
    if (!this.playing) return;
    this.playing = false;
    this.button(false);
    this.dispatchEvent(new Event("moved"));
  }

  button(playing) {
    const name = playing ? "Pause" : "Play";
    this.playButton.setAttribute("aria-label", name);
    this.playButton.title = name;
    this.playButton.replaceChildren(icon(playing ? ICONS.pause : ICONS.play));
  }

  tick(now) {
    if (!this.playing) return;
    const passed = this.before === null ? 0 : Math.min(now - this.before, 500);
    this.before = now;
    this.measure(now);
    const ended = this.runs.every((run) => run.ended);
    if (this.sync === "time") {
      this.clock += passed * this.speed;
      this.place = Math.max(this.at, countUpTo(this.line.times, this.clock) - 1);
    } else {
      this.place += (passed / 1000) * BASE * this.speed;
    }
    const newest = this.newest;
    if (this.place > newest) this.place = newest; // live: wait for further records
    const place = Math.floor(this.place);
    if (place !== this.at) {
      this.at = place;
      this.draw();
    }
    if (ended && this.at >= newest) {
      this.pause();
      return;
    }
    requestAnimationFrame((later) => this.tick(later));
  }

  /** Show a note if the browser draws fewer frames than the speed requires. */
  measure(now) {
    const { meter } = this;
    meter.from ??= now;
    meter.ticks += 1;
    if (now - meter.from < 1000) return;
    this.rate = ((meter.ticks - 1) * 1000) / (now - meter.from);
    this.meter = { from: now, ticks: 1 };
    const wanted = Math.min(60, BASE * this.speed);
    const slow = this.sync === "progress" && this.rate < wanted * 0.8;
    this.throttle.textContent = slow
      ? `This browser draws ${Math.round(this.rate)} frames a second here; to keep the speed, some steps are passed over.`
      : "";
  }

  /** Play from the start as records arrive; with reduced motion, show the end at once. */
  live() {
    if (!reducedMotion()) this.play();
  }

  /** Keyboard control, unless a field or a button has the focus. */
  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || this.panes.length === 0) return;
    const target = event.target;
    if (target.closest?.("input:not(.scrub), textarea, select, dialog, [contenteditable], [role=slider]")) return;
    const acts = {
      ArrowLeft: () => this.seek(this.at - 1),
      ArrowRight: () => this.seek(this.at + 1),
      Home: () => this.seek(0),
      End: () => this.seek(Infinity),
    };
    if (!target.closest?.("button, a, summary, [role=button]")) acts[" "] = () => this.toggle();
    if (!(event.key in acts)) return;
    event.preventDefault();
    acts[event.key]();
  }
}

/** A group of options of which one is selected. */
function choice(name, options, chosen, onchange) {
  const group = `choice-${name.replaceAll(" ", "-")}`;
  return h(
    "fieldset",
    { class: "choice" },
    h("legend", {}, name),
    ...Object.entries(options).map(([value, label]) =>
      h(
        "label",
        {},
        h("input", { type: "radio", name: group, value, checked: value === chosen, onchange: () => onchange(value) }),
        h("span", {}, label),
      ),
    ),
  );
}

function legend() {
  const entry = (kind, text) => h("li", {}, h("span", { class: `swatch ${kind}`, "aria-hidden": "true" }), text);
  return h(
    "ul",
    { class: "legend" },
    entry("mask", "masked"),
    entry("unmask", "unmasked"),
    entry("refine", "refined"),
    entry("remask", "masked again"),
    h("li", { class: "guess" }, h("span", { class: "swatch", "aria-hidden": "true" }, h("span", {}, "word")), "what a mask would become now, by confidence"),
    h(
      "li",
      { class: "ramp" },
      "confidence 0",
      ...Array.from({ length: 10 }, (_, i) => h("span", { class: `swatch h${i}`, "aria-hidden": "true" })),
      "1",
    ),
  );
}
