// What can be done with a token of a finished run: see what else was likely, keep, replace or mask it.

import { h } from "./dom.js";
import { likeliest, rerun } from "./rerun.js";

/** Nodes for the card of a position; `actions` is what the page offers (see `Inspector`). */
export function inspect(actions, run, track, position, frame) {
  const masked = track.state(frame).ids[position] === track.mask;
  const said = h("p", { class: "inspect-said", role: "status" });
  const list = h("ol", { class: "likeliest" });
  const told = h("p", { class: "entropy" });
  const attempt = (act) => async () => {
    try {
      said.textContent = "";
      await act();
    } catch (error) {
      said.textContent = error.message;
    }
  };
  const edit = (edited) => attempt(() => actions.edit(run, track, frame, { position, ...edited }));
  const button = (name, title, onclick) => h("button", { type: "button", title, onclick }, name);
  const word = h("input", { type: "text", "aria-label": "Another word", placeholder: "another word", maxlength: 80, size: 8 });
  const replace = attempt(async () => actions.edit(run, track, frame, { kind: "replace", position, id: await actions.idOf(run, word.value) }));
  return h(
    "div",
    { class: "inspect" },
    masked ? null : button("What else was likely", "The five likeliest tokens at the step that wrote it", attempt(async () => show(list, told, await actions.alternatives(run, track, position)))),
    list,
    told,
    h(
      "div",
      { class: "inspect-acts" },
      masked ? null : button("Keep", "Keep it, and write the rest again", edit({ kind: "keep" })),
      masked ? null : button("Mask again", "Make it a mask, and go on from the shown step", edit({ kind: "mask" })),
      h("form", { onsubmit: (event) => { event.preventDefault(); replace(); } }, word, h("button", { title: "Put a word here, and write the rest again" }, "Replace")),
    ),
    said,
  );
}

function show(list, told, { tokens, entropy }) {
  list.replaceChildren(
    ...tokens.map(([text, share]) => {
      const fill = h("i");
      fill.style.width = `${Math.round(share * 100)}%`;
      return h("li", {}, h("span", { class: "word" }, text.replaceAll("\n", "↵")), h("span", { class: "bar" }, fill), h("span", { class: "conf" }, share.toFixed(2)));
    }),
  );
  if (entropy === null) return;
  told.textContent = `entropy ${entropy.toFixed(2)} nats`;
  told.title = "Of the model's distribution at that step: 0 is certain, 0.69 as even as a coin";
}

/** Answers of the server for the inspector; `begin(body, title)` starts a run. */
export class Inspector {
  constructor(api, begin) {
    Object.assign(this, { api, begin, known: new WeakMap() });
  }

  async edit(run, track, frame, edit) {
    const body = rerun(run, track, frame, edit);
    const names = { keep: "a token kept", replace: "a token replaced", mask: "a token masked again" };
    await this.begin(body, `${run.created.request.steps} steps · ${names[edit.kind]}`);
  }

  /** The id of a word that is one token, as it stands inside a text. */
  async idOf(run, word) {
    if (word.trim() === "") throw new Error("write a word first");
    const model = run.created.model;
    const [alone, within] = await Promise.all([
      this.api.json("/tokenize", { model, prompt: "a", add_special_tokens: false }),
      this.api.json("/tokenize", { model, prompt: `a ${word.trim()}`, add_special_tokens: false }),
    ]);
    const ids = within.tokens.slice(alone.tokens.length);
    if (ids.length !== 1) throw new Error(`“${word.trim()}” has ${ids.length} tokens; a position holds one`);
    return ids[0];
  }

  /** The likeliest tokens at the step that wrote a position; the run is repeated once to get them. */
  async alternatives(run, track, position) {
    if (!this.known.has(run)) {
      const body = { ...run.created.request, logprobs: 5 };
      this.known.set(run, this.api.json("/v1/completions", body));
    }
    const answer = await this.known.get(run).catch((error) => {
      this.known.delete(run);
      throw error;
    });
    const found = likeliest(answer.choices[track.index], track, position);
    if (!found) throw new Error("it lies after the end of the text");
    return found;
  }
}
