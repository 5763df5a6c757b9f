// The dialog of what can be taken away: a preview, video, pictures, a page, a link, records, code.

import { examples } from "./code.js";
import { copyText, h } from "./dom.js";
import { Film, recorded, videoKind } from "./film.js";
import { save } from "./share.js";

const SHAPES = { square: [1080, 1080], tall: [1080, 1920] };
const PACE = 110; // milliseconds of a frame of a video
const CODE = ["curl", "Python", "JavaScript"];

/** Fills and opens the dialog `node`; `exporting` makes the files. */
export class Sharing {
  constructor(node, exporting, runs) {
    Object.assign(this, { node, exporting, runs, language: "curl" });
    const act = (name) => node.querySelector(`[data-act=${name}]`);
    this.preview = node.querySelector(".preview");
    this.said = node.querySelector(".said");
    this.code = node.querySelector(".code");
    this.tabs = node.querySelector(".code-tabs");
    this.films = [act("square"), act("tall")];
    node.querySelector(".snippet").value = '<iframe src="FILE.html#embed" width="720" height="420" style="border:0" title="A text that is denoised step by step"></iframe>';
    this.tabs.append(...CODE.map((name) => h("button", { type: "button", "data-language": name, onclick: () => this.show(name) }, name)));
    node.querySelector("[data-copy=code]").addEventListener("click", async () => {
      this.say((await copyText(this.code.textContent)) ? "The code is on the clipboard." : "Select the code to copy it.");
    });
  }

  say(text, bad = false) {
    this.said.textContent = text;
    this.said.classList.toggle("bad", bad);
  }

  open() {
    const [{ run }] = this.runs.shown;
    const film = this.runs.shown.length === 1 && !run.image && videoKind() !== null;
    for (const button of this.films) button.disabled = !film;
    this.say(film ? "" : "Videos are made of one text; a GIF shows comparisons and images.");
    this.node.querySelector(".code-part").hidden = false;
    this.node.showModal();
    this.show(this.language);
    this.draw(run, film);
  }

  /** A still of the run, halfway. */
  draw(run, film) {
    const pen = this.preview.getContext("2d");
    [this.preview.width, this.preview.height] = [720, 540];
    if (run.image) {
      const first = document.querySelector("canvas.image");
      pen.imageSmoothingEnabled = false;
      pen.drawImage(first, 90, 0, 540, 540);
      return;
    }
    const still = new Film(run, this.node, [720, 540]);
    still.draw(Math.floor((run.tracks[0].length - 1) * 0.6));
    pen.drawImage(still.canvas, 0, 0);
    this.preview.setAttribute("aria-label", film ? "The picture that a video begins with" : "A state of the first run");
  }

  show(language) {
    this.language = language;
    for (const button of this.tabs.children) button.setAttribute("aria-pressed", String(button.dataset.language === language));
    const parts = this.runs.shown.map(({ run }) => examples(run, location.origin)[language]);
    this.code.textContent = parts.join("\n\n");
  }

  /** Record a video of the shown run in one of the shapes, and save it. */
  async film(shape) {
    const [{ run }] = this.runs.shown;
    for (const button of this.films) button.disabled = true;
    try {
      const film = new Film(run, this.node, SHAPES[shape]);
      const blob = await recorded(film, this.preview, PACE, (share) => this.say(`Recording … ${Math.round(share * 100)} %`));
      save(blob, this.exporting.name(blob.type.endsWith("mp4") ? "mp4" : "webm"));
      this.say(`The video is saved: ${SHAPES[shape].join(" x ")} pixels.`);
    } finally {
      for (const button of this.films) button.disabled = false;
    }
  }
}
