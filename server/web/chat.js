// A conversation: earlier turns as bubbles, with their Markdown; the newest answer denoises below them.

import { h } from "./dom.js";
import { blocks } from "./markdown.js";

/** Turns of one conversation; `node` shows all but the one that is being answered. */
export class Chat {
  constructor() {
    this.turns = [];
    this.list = h("ol", { class: "turns" });
    this.clear = h("button", { type: "button", class: "quiet", onclick: () => this.reset() }, "New conversation");
    this.node = h("section", { class: "chat", "aria-label": "Conversation", hidden: true }, this.list, this.clear);
  }

  /** Messages for the next answer. */
  messages(prompt, system) {
    const before = system.trim() ? [{ role: "system", content: system }] : [];
    return [...before, ...this.turns, { role: "user", content: prompt }];
  }

  /** Show a question, whose answer follows. */
  ask(prompt) {
    this.settle();
    this.turns.push({ role: "user", content: prompt });
    this.draw();
  }

  /** Keep the answer to the last question; an empty one takes the question back. */
  answer(text) {
    if (this.turns.at(-1)?.role !== "user") return;
    if (text === null) this.turns.pop();
    else this.turns.push({ role: "assistant", content: text });
  }

  /** Show the last answer as a bubble, since another follows. */
  settle() {
    this.draw();
  }

  reset() {
    this.turns = [];
    this.draw();
  }

  draw() {
    this.node.hidden = this.turns.length === 0;
    this.list.replaceChildren(
      ...this.turns.map(({ role, content }) =>
        h("li", { class: `turn ${role}` }, h("span", { class: "unseen" }, role === "user" ? "You: " : "Answer: "), ...blocks(content)),
      ),
    );
  }
}
