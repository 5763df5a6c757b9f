// The first screen: recorded runs play by themselves, without work for the server.

import { h, reducedMotion } from "./dom.js";
import { Run } from "./reducer.js";
import { TextView } from "./textview.js";

const PACE = 95; // milliseconds of a step
const REST = 3200; // at the end of a run
const FADE = 700;

export class Hero {
  /** `recorded` is a list of trajectories, as the route returns them. */
  constructor(recorded) {
    this.runs = recorded.map(({ events }) => Run.from(events));
    this.stage = h("div", { class: "hero-canvas", inert: true });
    this.told = h("p", { class: "hero-told" });
    this.pause = h("button", { type: "button", class: "quiet", onclick: () => this.toggle() }, "Pause");
    this.node = h("div", { class: "hero" }, this.stage, h("div", { class: "hero-foot" }, this.told, this.pause));
    this.at = 0;
    this.timer = null;
  }

  /** Show the first run; it moves unless the system asks for no motion. */
  start() {
    const still = reducedMotion();
    this.pause.hidden = still;
    this.open(this.at);
    if (still) this.view.show(this.run.length - 1, "changes");
    else this.step(0);
  }

  open(at) {
    this.run = this.runs[at];
    const [track] = this.run.tracks;
    this.view = new TextView(track, this.run, () => null);
    this.stage.replaceChildren(this.view.node);
    this.view.show(0, "changes");
    const { model, request } = this.run.created;
    this.told.textContent = `A recorded run: ${model}, ${request.steps} steps of the whole text at once`;
  }

  step(frame) {
    this.frame = frame;
    this.view.show(frame, "changes");
    const last = frame >= this.run.length - 1;
    this.timer = setTimeout(() => (last ? this.next() : this.step(frame + 1)), last ? REST : PACE);
  }

  next() {
    this.stage.classList.add("fading");
    this.timer = setTimeout(() => {
      this.stage.classList.remove("fading");
      this.at = (this.at + 1) % this.runs.length;
      this.open(this.at);
      this.step(0);
    }, FADE);
  }

  toggle() {
    const moves = this.timer !== null;
    this.stop();
    if (!moves) this.step(this.frame >= this.run.length - 1 ? 0 : this.frame);
    this.pause.textContent = moves ? "Play" : "Pause";
  }

  /** Leave the page. */
  close() {
    this.stop();
    this.node.remove();
  }

  stop() {
    clearTimeout(this.timer);
    this.timer = null;
    this.stage.classList.remove("fading");
  }
}
