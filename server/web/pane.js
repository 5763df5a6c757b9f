// One run on the page: its settings, canvases, strip and counters.

import { Charts } from "./charts.js";
import { copyText, duration, h, short } from "./dom.js";
import { HistoryCard } from "./history.js";
import { ImageView, paint } from "./imageview.js";
import { Strip } from "./strip.js";
import { TextView } from "./textview.js";

const THUMBNAILS = 9; // states in the row of thumbnails

/** `inspect(run, track, position, frame)` makes the lower part of a pinned token's card. */
export class Pane {
  constructor(run, title, { onseek, inspect = null }) {
    this.inspect = inspect;
    this.run = run;
    this.views = [];
    this.strips = [];
    this.frame = 0;
    this.card = new HistoryCard();
    this.onseek = onseek;
    this.canvases = h("div", { class: "canvases" });
    this.maps = h("div", { class: "maps" });
    this.counters = new Counters();
    this.copy = h("button", { type: "button", class: "copy", hidden: run.image !== null, onclick: () => this.copyText() }, "Copy");
    this.time = h("p", { class: "clock", hidden: true });
    this.note = h("p", { class: "note", role: "status" });
    this.film = h("div", { class: "film", hidden: true });
    this.facts = h("dl", { class: "facts" });
    this.node = h(
      "article",
      { class: "pane" },
      h("header", { class: "pane-head" }, h("h2", {}, title), this.time, this.copy, this.note),
      this.canvases,
      this.counters.node,
      h("div", { class: "ways" }, this.maps, this.film),
      this.facts,
      this.card.node,
    );
  }

  /** Create views for new canvases. */
  grow() {
    const { run } = this;
    while (this.views.length < run.tracks.length) {
      const track = run.tracks[this.views.length];
      const strip = new Strip(track, run, (frame) => this.onseek(this, frame));
      const View = run.image ? ImageView : TextView;
      const view = new View(track, run, (...where) => this.point(track, strip, ...where));
      this.views.push(view);
      this.strips.push(strip);
      this.canvases.append(view.node);
      if (this.views.length > 1) continue;
      this.charts = new Charts(track);
      this.maps.append(strip.figure, this.charts.node);
    }
    this.canvases.classList.toggle("images", run.image !== null);
    this.canvases.dataset.images = run.image ? run.tracks.length : 0;
    this.canvases.classList.toggle("several", run.tracks.length > 1);
    this.copy.hidden = run.image !== null;
  }

  point(track, strip, position, anchor, pinned = false) {
    if (position === null) {
      if (!this.card.pinned) this.card.hide();
      strip.point(null);
      return;
    }
    if (this.card.pinned && !pinned) return;
    if (this.card.pinned && this.card.shows(track, position)) {
      this.card.hide(); // a second click
      strip.point(null);
      return;
    }
    this.card.pinned = pinned;
    const open = pinned && this.inspect && this.run.ended && !this.run.image && track.editable[position];
    const more = open ? this.inspect(this.run, track, position, this.frame) : null;
    this.card.show(track, position, anchor, this.frame, this.run.image !== null, more);
    strip.point(position);
  }

  show(frame, colours) {
    this.grow();
    this.frame = frame;
    this.views.forEach((view, i) => {
      view.show(frame, colours, this.views.length);
    });
    if (this.run.tracks[0]?.length) {
      this.strips[0].show(frame);
      this.charts.show(Math.min(frame, this.run.tracks[0].length - 1));
      this.counters.show(this.run, frame);
    }
    this.showFacts();
  }

  /** Show the common time of a comparison in milliseconds, or the own time once this run is done. */
  clock(now) {
    const frames = this.run.tracks[0]?.frames ?? [];
    const done = this.run.ended && this.frame >= frames.length - 1 && frames.length > 0;
    this.time.hidden = now === undefined;
    if (now === undefined) return;
    this.time.textContent = done ? `⚑ ${duration(frames.at(-1).elapsed)}` : duration(now);
    this.time.classList.toggle("done", done);
  }

  /** Discard measured heights after a change of layout. */
  relax() {
    for (const view of this.views) view.relax?.();
  }

  restyle() {
    for (const strip of this.strips) strip.redraw();
  }

  showFacts() {
    const { completed, failed } = this.run;
    if (failed && !this.told) {
      this.told = true;
      const { step, steps } = this.run.tracks[0]?.frames.at(-1) ?? {};
      if (failed.error?.code === "cancelled") this.say(steps ? `Stopped at step ${step} of ${steps}.` : "Stopped.");
      else this.say(`It failed after ${duration(failed.elapsed_ms)}: ${failed.error?.message ?? "no reason given"}`, true);
    }
    if (!completed || this.told) return;
    this.told = true;
    const used = completed.usage?.diffusion ?? {};
    this.fact("latency", duration(completed.elapsed_ms));
    this.fact("forwards (NFE)", short(used.forwards));
    this.fact("tokens per forward", short(used.tokens_per_forward));
    if (this.run.image) this.showFilm();
  }

  fact(name, value, title = "") {
    const found = [...this.facts.children].find((one) => one.dataset.name === name);
    const entry = h("div", { "data-name": name, title }, h("dt", {}, name), h("dd", {}, value));
    if (found) found.replaceWith(entry);
    else this.facts.append(entry);
  }

  showFilm() {
    const track = this.run.tracks[0];
    const last = track.length - 1;
    const count = Math.min(THUMBNAILS, track.length);
    this.film.hidden = false;
    for (let i = 0; i < count; i += 1) {
      const frame = Math.round((i * last) / Math.max(1, count - 1));
      const canvas = h("canvas", { "aria-hidden": "true" });
      const label = track.frames[frame].final ? "end" : `step ${track.frames[frame].step}`;
      const button = h("button", { type: "button", onclick: () => this.onseek(this, frame) }, canvas, label);
      this.film.append(button);
      paint(canvas, track, frame, this.run.image, "plain", 96);
    }
  }

  async copyText() {
    const text = this.views.map((view) => view.text()).join("\n\n");
    this.copy.textContent = (await copyText(text)) ? "Copied" : "Not allowed";
    setTimeout(() => { this.copy.textContent = "Copy"; }, 1500);
  }

  say(text, bad = false) {
    this.note.textContent = text;
    this.note.classList.toggle("bad", bad);
  }
}

const NAMES = ["step", "masked", "tokens / step", "refined", "remasked", "elapsed"];

class Counters {
  constructor() {
    this.values = NAMES.map(() => h("dd", {}, "–"));
    this.node = h(
      "dl",
      { class: "counters" },
      ...NAMES.map((name, i) => h("div", { "data-name": name }, h("dt", {}, name), this.values[i])),
    );
  }

  show(run, frame) {
    const tracks = run.tracks.filter((track) => track.length);
    const at = tracks.map((track) => track.frames[Math.min(frame, track.length - 1)]);
    const sum = (name) => at.reduce((total, one) => total + one[name], 0);
    const first = at[0];
    const written = tracks.reduce((total, track) => total + track.written, 0);
    const filled = written - sum("masked");
    const values = [
      first.final ? "final" : `${first.step} / ${first.steps}`,
      sum("masked"),
      first.step ? short(filled / first.step) : "–",
      sum("refined"),
      sum("remasked"),
      duration(Math.max(...at.map((one) => one.elapsed))),
    ];
    values.forEach((value, i) => {
      const text = String(value);
      if (this.values[i].textContent !== text) this.values[i].textContent = text;
    });
  }
}
