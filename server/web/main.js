// The page: the form, its runs, and the actions on them.

import { Api, sentence, Unreachable } from "./api.js";
import { Chat } from "./chat.js";
import { Dial } from "./dial.js";
import { askKey } from "./dialogs.js";
import { h } from "./dom.js";
import { digits } from "./exact.js";
import { Exports } from "./exports.js";
import { Hero } from "./hero.js";
import { Player } from "./player.js";
import { inspect, Inspector } from "./inspector.js";
import { modelFor, PRESETS } from "./presets.js";
import { Run } from "./reducer.js";
import { Runs, Told } from "./runs.js";
import { Settings } from "./settings.js";
import { decoded, fromJson, named, upToDate } from "./share.js";
import { Sharing } from "./sharing.js";

const $ = (selector) => document.querySelector(selector);
const form = $("#ask");
const api = new Api(askKey);
const player = new Player();
const runs = new Runs(api, player);
const inspector = new Inspector(api, (body, title) => execute(() => runs.start([{ body: settings?.withGuesses(body) ?? body, title }], null)));
runs.inspect = (...where) => inspect(inspector, ...where);
const exporting = new Exports(api, runs, player, say);
const sharing = new Sharing($("#sharing"), exporting, runs);
const chat = new Chat();
const scoring = h("button", { type: "button", class: "quiet", hidden: true, title: "An upper bound of the text's negative log-likelihood", onclick: () => act("score") }, "Likelihood");
const narrow = matchMedia("(max-width: 60rem)");
let settings = null;
let dial = null;
let hero = null;

$("#stage").append(chat.node, player.node);
player.options.append(scoring);

/** Read the served models, unless that has been done; false if the server gave none. */
async function ready() {
  if (settings) return true;
  try {
    settings = new Settings((await api.json("/v1/models")).data, form);
  } catch (error) {
    tell(error);
    return false;
  }
  say("");
  dial = new Dial($("#dial"), $("#estimate"), settings);
  settings.addEventListener("changed", () => document.documentElement.toggleAttribute("data-chat", settings.chat));
  settings.addEventListener("blamed", ({ detail }) => {
    if (detail.closest("#drawer")) drawer(true);
  });
  form.inert = false;
  form.elements.model.disabled = false;
  for (const button of document.querySelectorAll("[data-preset]")) {
    button.hidden = modelFor(PRESETS[button.dataset.preset], settings.models) === undefined;
  }
  document.documentElement.dataset.ready = "";
  return true;
}

/** Open or close the settings. */
function drawer(open) {
  $("#drawer").hidden = !open;
  $("#settings").setAttribute("aria-expanded", String(open));
  document.documentElement.toggleAttribute("data-drawer", open);
}

async function start() {
  play();
  const asked = new URLSearchParams(location.hash.slice(1));
  const state = upToDate(decoded(asked.get("run") ?? ""));
  if (!(await ready()) || !state) return;
  await generate({ state, preset: PRESETS[state.preset], step: Number(asked.get("step") ?? Number.NaN) });
}

/** The first screen plays recorded runs. */
async function play() {
  try {
    hero = new Hero(await (await fetch("/page/recorded.json")).json());
  } catch {
    return; // the page works without it
  }
  $("#hero").append(hero.node);
  if (runs.shown.length === 0) hero.start();
}

/** Run a preset with the first model that it is for. */
async function show(name) {
  if (!(await ready())) return;
  const preset = PRESETS[name];
  const { id } = modelFor(preset, settings.models);
  await generate({ state: { ...preset.state, model: id, preset: name }, preset });
}

/** Start a run by the form, or by a `state` that fills it. */
async function generate({ state = null, preset, step } = {}) {
  if (!(await ready())) return;
  if (state) settings.state = state;
  const seed = digits(form.elements.seed.value) || String(drawn());
  settings.clear();
  say("");
  if (narrow.matches) {
    drawer(false);
    $("#stage").scrollIntoView();
  }
  await execute(async () => {
    const asked = settings.bodies(seed);
    preset?.titles?.forEach((title, i) => { asked[i].title = title; });
    asked.forEach((one, i) => {
      one.body = settings.withGuesses({ ...one.body, ...preset?.body, ...preset?.bodies?.[i] });
    });
    const kept = { ...settings.state, seed, ...(preset ? { preset: state.preset } : {}) };
    const link = named(kept, settings.facts.sampler);
    const ended = settings.chat ? await converse(asked, link) : await runs.start(asked, link, { ...preset, step });
    if (preset?.note) say(preset.note);
    if (ended && runs.shown.length > 1) for (const one of runs.shown) await runs.score(one);
    buttons();
  });
}

/** Ask the prompt as the next turn of the conversation; its answer denoises below the others. */
async function converse(asked, link) {
  const { prompt, model } = asked[0].body;
  const messages = chat.messages(prompt, settings.system);
  const { tokens } = await api.json("/tokenize", { model, messages });
  for (const { body } of asked) body.prompt = tokens;
  chat.ask(prompt);
  form.elements.prompt.value = "";
  let text = null;
  try {
    const ended = await runs.start(asked, messages.length > 1 ? null : link);
    text = ended ? (runs.shown[0].run.completed?.choices[0].text ?? null) : null;
    return ended;
  } finally {
    chat.answer(text);
    if (text === null) form.elements.prompt.value ||= prompt;
  }
}

/** Do something that runs on the server, and show its error. */
async function execute(act) {
  document.documentElement.dataset.busy = "";
  try {
    await act();
  } catch (error) {
    if (error.message !== "cancelled") tell(error);
  } finally {
    if (!runs.busy) delete document.documentElement.dataset.busy;
  }
}

function buttons() {
  const { shown, link } = runs;
  const done = shown.length > 0 && shown.every(({ run }) => run.ended && run.length > 0);
  $("#open-share").disabled = !done;
  $("[data-act=link]").disabled = link === null;
  scoring.hidden = !(done && shown.some(({ run, score }) => run.completed && !run.image && !score));
}

runs.addEventListener("shown", () => {
  hero?.close();
  $("#welcome").hidden = true;
  say("");
  buttons();
});
runs.addEventListener("ended", () => {
  buttons();
  for (const { run } of runs.shown) dial?.learn(run);
});
runs.addEventListener("waits", (event) => say(event.detail));

/** Show an error where it belongs: at its field, in its pane, or at the top of the page. */
function tell(error) {
  if (error instanceof Told) return;
  if (error instanceof Unreachable) {
    away();
    return;
  }
  const told = sentence(error.message);
  const blamed = settings?.blame(error.param, told);
  say(blamed ? "" : told, true);
  if (!blamed) $("#said").scrollIntoView({ block: "nearest" });
}

let waiting = null; // for a server that does not answer

function away() {
  say("The server does not answer. This page waits for it and goes on by itself.", true);
  waiting ??= api.back().then(async () => {
    waiting = null;
    if (settings ? true : await ready()) say("The server is back.");
  });
}

function say(text, bad = false) {
  if ($("#sharing").open) {
    sharing.say(text, bad);
    return;
  }
  $("#said").textContent = text;
  $("#said").classList.toggle("bad", bad);
}

const drawn = () => crypto.getRandomValues(new Uint32Array(1))[0] >>> 1;

async function load(file) {
  try {
    const found = fromJson(await file.text()).map((records) => Run.from(records));
    runs.leave();
    delete document.documentElement.dataset.busy;
    const shown = found.map((run, i) => {
      const { steps = "?", sampler = "" } = run.created.request ?? {};
      const title = `${found.length > 1 ? `${"ABCD"[i]}: ` : ""}${steps} steps · ${sampler}`;
      return { run, title, score: null, pane: runs.pane(run, title) };
    });
    runs.show(shown, null);
    say(`Loaded ${file.name}.`);
    player.live();
  } catch (error) {
    say(`This file cannot be shown: ${error.message}.`, true);
  }
}

const acts = {
  square: () => sharing.film("square"),
  tall: () => sharing.film("tall"),
  score: async () => {
    await Promise.all(runs.shown.map((one) => runs.score(one)));
    buttons();
  },
  import: () => $("#file").click(),
};

async function act(name) {
  try {
    say("");
    $("#said").textContent = "";
    await (acts[name] ?? (() => exporting[name]()))();
  } catch (error) {
    tell(error);
  }
}

let later = null;
player.addEventListener("moved", () => {
  clearTimeout(later); // browsers limit the rate of address changes
  later = setTimeout(() => {
    if (!player.playing && runs.shown.length) history.replaceState(null, "", `#${exporting.hash()}`);
  }, 200);
});

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (event.submitter?.name !== "stop") generate();
  else runs.stop().catch(tell);
});
form.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit($("[name=go]"));
});
$("#open-share").addEventListener("click", () => sharing.open());
$("#sharing").addEventListener("click", (event) => {
  const name = event.target.closest("button")?.dataset.act;
  if (name) act(name);
});
$("#file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (file) load(file);
  event.target.value = "";
});
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  const [file] = event.dataTransfer.files;
  if (file) load(file);
});
$(".examples").append(
  ...Object.entries(PRESETS).map(([name, preset]) =>
    h("button", { type: "button", "data-preset": name, hidden: Boolean(preset.image || preset.needs), onclick: () => show(name) }, preset.name),
  ),
  h("button", { type: "button", class: "quiet", onclick: () => act("import") }, "Open a file"),
);
$("#settings").addEventListener("click", () => drawer($("#drawer").hidden));
$("#help").addEventListener("click", () => $("#keys").showModal());
document.addEventListener("keydown", (event) => {
  if (event.key === "?" && !event.target.closest?.("input, textarea, select, dialog")) $("#keys").showModal();
});
document.addEventListener("keydown", (event) => player.key(event));
$("#theme").addEventListener("click", () => {
  const now = document.documentElement.dataset.theme ?? (player.dark.matches ? "dark" : "light");
  document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
  localStorage.setItem("xdlm-theme", document.documentElement.dataset.theme);
  player.restyle();
});
const kept = localStorage.getItem("xdlm-theme");
if (kept === "dark" || kept === "light") document.documentElement.dataset.theme = kept;

start();
