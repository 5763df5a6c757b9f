// Runs on the server: started together or one after the other, followed, stopped, scored.

import { sentence, Unreachable } from "./api.js";
import { reducedMotion } from "./dom.js";
import { Pane } from "./pane.js";
import { Run } from "./reducer.js";

/**
 * The shown runs, `shown`: {run, pane, title, score}. Events: "shown" when others are shown, "ended"
 * when one has ended, "waits" with a status line in `detail`.
 */
export class Runs extends EventTarget {
  constructor(api, player) {
    super();
    Object.assign(this, { api, player, shown: [], next: [], link: null, abort: null, inspect: null });
  }

  get busy() {
    return this.abort !== null;
  }

  /**
   * Start runs, `asked`: {body, title}; they are shown once one has a state, so that a refused
   * request leaves what is there. `alone` starts each when the one before has ended, and shows all
   * at the end; `sync` and `speed` are for the player. `step` is the place to show; NaN plays.
   */
  async start(asked, link, { step = Number.NaN, alone = false, sync, speed } = {}) {
    this.leave();
    const abort = new AbortController();
    this.abort = abort;
    this.next = asked.map(({ body, title }) => ({ run: new Run(), body, title, score: null }));
    const { next } = this;
    for (const one of next) one.pane = this.pane(one.run, one.title);
    const onfirst = () => {
      if (this.shown === next || abort.signal.aborted) return;
      if (alone && !next.every(({ run }) => run.ended)) return;
      this.show(next, link);
      this.player.set(sync, speed);
      if (Number.isNaN(step)) this.player.live();
    };
    try {
      if (alone) for (const one of next) await this.follow(one, abort.signal, onfirst);
      else await Promise.all(next.map((one) => this.follow(one, abort.signal, onfirst)));
      if (!Number.isNaN(step)) this.player.seek(step);
      else if (reducedMotion()) this.player.seek(Infinity);
    } finally {
      if (this.abort === abort) this.abort = null;
    }
    return !abort.signal.aborted;
  }

  pane(run, title) {
    return new Pane(run, title, { onseek: (pane, frame) => this.player.seekFrame(pane, frame), inspect: this.inspect });
  }

  show(shown, link) {
    this.shown = shown;
    this.link = link;
    this.player.load(shown.map(({ pane }) => pane));
    this.dispatchEvent(new Event("shown"));
  }

  async follow({ run, pane, body }, signal, onfirst) {
    let drawing = false;
    const onrecord = () => {
      if (run.length === 0 || drawing) return;
      drawing = true; // at most once per animation frame
      requestAnimationFrame(() => {
        drawing = false;
        onfirst();
        if (!signal.aborted) this.player.refresh();
      });
    };
    const tell = (text) => {
      if (run.length) pane.say(text);
      else this.dispatchEvent(new CustomEvent("waits", { detail: text }));
    };
    try {
      await this.api.follow(body, run, { signal, onrecord, tell });
      if (run.length === 0 && run.failed?.error?.code !== "cancelled") throw new Error(run.failed?.error?.message ?? "the run is empty");
    } catch (error) {
      run.cut = true;
      if (!signal.aborted && run.length) pane.say(sentence(error.message), true);
      throw run.length && !(error instanceof Unreachable) ? new Told(error.message) : error;
    } finally {
      if (run.length) onfirst();
      if (!signal.aborted) {
        this.player.refresh();
        this.dispatchEvent(new Event("ended"));
      }
    }
  }

  /** Ask the server to end the runs that are under way. */
  async stop() {
    const under = this.next.filter(({ run }) => !run.ended) ?? [];
    if (under.every(({ run }) => run.created === null)) this.leave();
    await Promise.all(under.map(({ run }) => run.created && this.api.cancel(run.created.id)));
  }

  /** Follow the runs under way no longer, and have the server end them. */
  leave() {
    if (!this.busy) return;
    for (const { run } of this.next.filter((one) => one.run.created && !one.run.ended)) {
      run.cut = true;
      this.api.cancel(run.created.id).catch(() => null); // it may have ended meanwhile
    }
    this.abort.abort(new Error("cancelled"));
    this.abort = null;
  }

  /** Upper bound of the negative log-likelihood of a run's text. */
  async score(one) {
    const { run, pane } = one;
    const track = run.tracks[0];
    if (!run.completed || run.image || one.score) return;
    const { ids } = run.completed.choices[0];
    const from = track.editable.indexOf(1);
    const after = track.editable.lastIndexOf(1) + 1;
    const end = ids.findIndex((id, at) => at >= from && run.ends.includes(id));
    const whole = after < ids.length; // text follows the answer: all of it is scored
    const text = whole ? ids : ids.slice(from, end < 0 ? after : end);
    if (text.length === 0) return;
    try {
      const body = { model: run.created.model, text, seed: 0 };
      if (!whole && from > 0) body.prompt = ids.slice(0, from);
      const found = await this.api.json("/v1/score", body);
      const error = (found.standard_error ?? 0) / text.length;
      one.score = `${found.nats_per_token.toFixed(2)} ± ${error.toFixed(2)} nats/token`;
      const title = `an upper bound by ${found.samples} samples${whole ? ", of the whole canvas" : ""}`;
      pane.fact("likelihood", one.score, title);
    } catch (error) {
      pane.fact("likelihood", "–", error.message);
    }
  }
}

/** An error that its pane shows. */
export class Told extends Error {}
