// What can be taken away from the shown runs: files, pictures, a link.

import { asJson, encoded, save, standalone } from "./share.js";
import { written } from "./exact.js";

/** Exports of the runs that `runs` shows; `say` tells how it went. */
export class Exports {
  constructor(api, runs, player, say) {
    Object.assign(this, { api, runs, player, say });
  }

  name(kind) {
    const { model, seed } = this.runs.shown[0].run.created;
    return `${model.replace(/[^\w.-]+/g, "-")}-${seed}.${kind}`;
  }

  json() {
    const text = asJson(this.runs.shown.map(({ run }) => run));
    save(new Blob([text], { type: "application/json" }), this.name("json"));
  }

  async html() {
    const template = await (await this.api.fetch("/page/player.html")).text();
    const runs = this.runs.shown.map(({ run, title, score }) => ({ title, events: run.records, score }));
    const { prompt } = this.runs.shown[0].run.created.request;
    const kept = { prompt: typeof prompt === "string" ? prompt : "", runs };
    save(new Blob([standalone(template, kept)], { type: "text/html" }), this.name("html"));
  }

  gif() {
    return this.picture("gif");
  }

  png() {
    return this.picture("png");
  }

  async picture(format) {
    const theme = getComputedStyle(document.documentElement).colorScheme;
    const dark = theme === "dark" || (theme !== "light" && this.player.dark.matches);
    const runs = this.runs.shown.map(({ run }) => ({ events: run.records }));
    const body = written({ format, runs, theme: dark ? "dark" : "light", sync: runs.length > 1 ? "time" : "progress" });
    this.say("Drawing …");
    const response = await this.api.fetch("/v1/diffusion/pictures", { method: "POST", body });
    save(await response.blob(), this.name(format));
    this.say(response.headers.get("X-Picture-Note") ?? "");
  }

  async link() {
    location.hash = this.hash();
    const done = await navigator.clipboard?.writeText(location.href).then(() => true, () => false);
    this.say(done ? "The link is on the clipboard: it holds the prompt, all settings and the seed." : "The link is in the address bar.");
  }

  /** The part of the address that repeats the shown runs, at the shown step. */
  hash() {
    const kept = new URLSearchParams();
    if (this.runs.link) kept.set("run", encoded(this.runs.link));
    kept.set("step", this.player.at);
    return kept.toString();
  }
}
