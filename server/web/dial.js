// The steps on a dial, with an estimate of the time that they take.

import { duration } from "./dom.js";

const MARKS = [1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256];
const KEPT = "xdlm-pace-"; // milliseconds of a step, by model

export class Dial {
  /** `range` and `output` show the steps of the setting that `settings` has open. */
  constructor(range, output, settings) {
    Object.assign(this, { range, output, settings });
    range.max = MARKS.length - 1;
    range.addEventListener("input", () => settings.setSteps(MARKS[Number(range.value)]));
    settings.addEventListener("changed", () => this.show());
    this.show();
  }

  show() {
    const { steps } = this.settings;
    const above = MARKS.findIndex((one) => one >= steps);
    this.range.value = above < 0 ? MARKS.length - 1 : above;
    this.range.setAttribute("aria-valuetext", `${steps} steps`);
    const pace = Number(localStorage.getItem(KEPT + this.settings.model.id));
    this.output.textContent = `${steps} steps${pace ? `, about ${duration(pace * (steps + 1))}` : ""}`;
  }

  /** Note how long the steps of a finished run took. */
  learn(run) {
    const frames = run.tracks[0]?.frames ?? [];
    if (!run.completed || frames.length < 3) return;
    const pace = (frames.at(-1).elapsed - frames[1].elapsed) / (frames.length - 2);
    if (pace > 0) localStorage.setItem(KEPT + run.created.model, pace.toFixed(3));
    this.show();
  }
}
