// A schedule as bars, changed by dragging or with the arrow keys.

import { balanced } from "./budgets.js";
import { h } from "./dom.js";

const HIGH = 72; // pixels of the tallest bar
const MOST = 128; // steps whose bars are wide enough to distinguish

/** The entries always sum to `total`; null leaves them independent. */
export class Bars {
  constructor(label, onchange) {
    this.label = label;
    this.onchange = onchange;
    this.values = [];
    this.total = null;
    this.active = 0;
    this.node = h("div", { class: "bars", role: "group", "aria-label": label });
    this.node.addEventListener("pointerdown", (event) => this.drag(event));
    this.node.addEventListener("pointermove", (event) => event.buttons && this.drag(event));
    this.node.addEventListener("keydown", (event) => this.key(event));
  }

  load(values, total) {
    this.values = values;
    this.total = total;
    this.scale = Math.max(4, ...values) * 1.15;
    this.active = Math.min(this.active, values.length - 1);
    this.draw();
  }

  draw() {
    if (this.values.length > MOST) {
      this.node.replaceChildren(h("p", {}, `${this.values.length} steps are too many to draw.`));
      return;
    }
    if (this.node.children.length !== this.values.length || this.node.querySelector("p")) {
      this.node.replaceChildren(
        ...this.values.map((_, i) =>
          h("div", { class: "bar-slot", role: "slider", "data-at": i, "aria-label": `${this.label}, step ${i + 1}` }, h("i")),
        ),
      );
    }
    [...this.node.children].forEach((slot, i) => {
      slot.tabIndex = i === this.active ? 0 : -1;
      slot.title = `step ${i + 1}: ${this.values[i]}`;
      slot.setAttribute("aria-valuenow", this.values[i]);
      slot.setAttribute("aria-valuemin", 0);
      slot.setAttribute("aria-valuemax", this.total ?? 1024);
      slot.firstChild.style.height = `${Math.max(2, (this.values[i] / this.scale) * HIGH)}px`;
    });
  }

  set(at, value) {
    const wanted = Math.max(0, Math.round(value));
    if (wanted === this.values[at]) return;
    if (this.total === null) {
      this.values = this.values.map((one, i) => (i === at ? wanted : one));
    } else {
      this.values = balanced(this.values, at, wanted, this.total);
    }
    this.scale = Math.max(this.scale, ...this.values);
    this.draw();
    this.onchange(this.values);
  }

  drag(event) {
    const slots = this.node.children.length;
    const box = this.node.getBoundingClientRect();
    const at = Math.floor(((event.clientX - box.left) / box.width) * slots);
    if (at < 0 || at >= this.values.length || this.values.length > MOST) return;
    this.active = at;
    this.set(at, ((box.bottom - event.clientY) / HIGH) * this.scale);
    this.draw();
  }

  key(event) {
    const moves = { ArrowLeft: -1, ArrowRight: 1 };
    const changes = { ArrowUp: 1, ArrowDown: -1 };
    if (event.key in moves) {
      this.active = Math.max(0, Math.min(this.values.length - 1, this.active + moves[event.key]));
      this.draw();
      this.node.children[this.active].focus();
    } else if (event.key in changes) {
      this.set(this.active, this.values[this.active] + changes[event.key]);
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }
}
