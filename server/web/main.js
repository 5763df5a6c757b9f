// The page: the form, its runs, and the actions on them.

import { Api, keyProblem, Problem, sentence } from "./api.js";
import { reducedMotion } from "./dom.js";
import { Pane } from "./pane.js";
import { Player } from "./player.js";
import { Run } from "./reducer.js";
import { Settings } from "./settings.js";
import { asJson, decoded, encoded, fromJson, save, standalone } from "./share.js";

const $ = (selector) => document.querySelector(selector);
const form = $("#ask");
const api = new Api(askKey);
const player = new Player();
let settings = null;
let shown = []; // {run, pane, title, score}
let link = null; // settings of the shown runs, if this page started them
let abort = null;
const narrow = matchMedia("(max-width: 60rem)");

$("#stage").append(player.node);

async function start() {
  try {
    settings = new Settings((await api.json("/v1/models")).data, form);
  } catch (error) {
    say(`${sentence(error.message)} Reload the page to try again.`, true);
    return;
  }
  form.querySelector("fieldset").disabled = false;
  form.querySelector("details").open = !narrow.matches;
  document.documentElement.dataset.ready = "";
  const asked = new URLSearchParams(location.hash.slice(1));
  const state = decoded(asked.get("run") ?? "");
  if (state) {
    settings.state = state;
    await generate(Number(asked.get("step") ?? Number.NaN));
  }
}

async function generate(step = Number.NaN) {
  const seed = form.elements.seed.value === "" ? drawn() : Number(form.elements.seed.value);
  link = { ...settings.state, seed };
  abort?.abort();
  abort = new AbortController();
  const { signal } = abort;
  say("");
  if (narrow.matches) $("#stage").scrollIntoView();
  document.documentElement.dataset.busy = "";
  try {
    const asked = settings.bodies(seed);
    if (settings.chat) await asChat(asked);
    shown = asked.map(({ title }) => ({ run: new Run(), title, score: null }));
    for (const one of shown) one.pane = new Pane(one.run, one.title, { onseek });
    show();
    if (Number.isNaN(step)) player.live();
    await Promise.all(asked.map(({ body }, i) => follow(body, shown[i], signal)));
    if (Number.isNaN(step) ? reducedMotion() : true) player.seek(Number.isNaN(step) ? Infinity : step);
  } catch (error) {
    if (!signal.aborted) tell(error);
  } finally {
    if (abort.signal === signal) delete document.documentElement.dataset.busy;
  }
  if (!signal.aborted && shown.length > 1) for (const one of shown) await score(one);
}

/** The prompt of a conversation, rendered by the checkpoint's chat template. */
async function asChat(asked) {
  const { model, prompt } = asked[0].body;
  const messages = [{ role: "user", content: prompt }];
  const { tokens } = await api.json("/tokenize", { model, messages });
  for (const { body } of asked) body.prompt = tokens;
}

async function follow(body, { run, pane }, signal) {
  let drawing = false;
  const onrecord = () => {
    if (drawing) return;
    drawing = true; // at most once per animation frame
    requestAnimationFrame(() => {
      drawing = false;
      if (!signal.aborted) player.refresh();
    });
  };
  try {
    await api.follow(body, run, { signal, onrecord, tell: (text) => pane.say(text) });
  } catch (error) {
    run.cut = true;
    if (!signal.aborted) pane.say(sentence(error.message), true);
    throw error;
  } finally {
    if (!signal.aborted) {
      player.refresh();
      buttons();
    }
  }
}

/** Upper bound of the negative log-likelihood of the generated text. */
async function score(one) {
  const { run, pane } = one;
  const track = run.tracks[0];
  if (!run.completed || run.image || one.score) return;
  const { ids } = run.completed.choices[0];
  const from = track.editable.indexOf(1);
  const behind = track.editable.lastIndexOf(1) + 1;
  const end = ids.findIndex((id, at) => at >= from && run.ends.includes(id));
  const whole = behind < ids.length; // text follows the answer: all of it is scored
  const text = whole ? ids : ids.slice(from, end < 0 ? behind : end);
  if (text.length === 0) return;
  try {
    const body = { model: run.created.model, text, seed: 0 };
    if (!whole && from > 0) body.prompt = ids.slice(0, from);
    const found = await api.json("/v1/score", body);
    const error = (found.standard_error ?? 0) / text.length;
    one.score = `${found.nats_per_token.toFixed(2)} ± ${error.toFixed(2)} nats/token`;
    const title = `an upper bound by ${found.samples} samples${whole ? ", of the whole canvas" : ""}`;
    pane.fact("NELBO", one.score, title);
  } catch (error) {
    pane.fact("NELBO", "–", error.message);
  }
}

function onseek(pane, frame) {
  player.seekFrame(pane, frame);
}

function show() {
  player.load(shown.map(({ pane }) => pane));
  $("#welcome").hidden = true;
  buttons();
}

function buttons() {
  const done = shown.length > 0 && shown.every(({ run }) => run.ended && run.length > 0);
  for (const button of document.querySelectorAll("#share button")) {
    if (button.dataset.act !== "import") button.disabled = !done;
  }
  $("[data-act=link]").disabled = !done || link === null;
  const text = done && shown.some(({ run }) => run.completed && !run.image);
  $("[data-act=score]").disabled = !text;
  player.options.append($("#share"));
}

/** Show an error at the field that caused it, or at the top of the page. */
function tell(error) {
  const blamed = error instanceof Problem && settings.blame(error.param);
  say(sentence(error.message), true);
  if (!blamed) $("#said").scrollIntoView({ block: "nearest" });
}

function say(text, bad = false) {
  $("#said").textContent = text;
  $("#said").classList.toggle("bad", bad);
}

const drawn = () => crypto.getRandomValues(new Uint32Array(1))[0] >>> 1;

function stop() {
  for (const { run } of shown) {
    if (run.created && !run.ended) api.cancel(run.created.id).catch((error) => say(sentence(error.message), true));
    if (!run.created) abort?.abort(new Error("cancelled"));
  }
  if (abort?.signal.aborted) delete document.documentElement.dataset.busy;
}

function askKey(wrong) {
  const dialog = $("#key");
  const field = dialog.querySelector("input");
  const said = dialog.querySelector("p");
  const asked = wrong
    ? "The server does not know that key. Another one?"
    : "This server asks for an API key. It stays in this tab, and is forgotten with it.";
  const check = () => {
    const problem = keyProblem(field.value.trim());
    field.setCustomValidity(problem);
    said.textContent = problem || asked;
  };
  field.value = "";
  field.oninput = check;
  check();
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "ok" ? field.value.trim() : null), { once: true });
  });
}

const nameOf = (kind) => `${shown[0].run.created.model.replace(/[^\w.-]+/g, "-")}-${shown[0].run.created.seed}.${kind}`;

const acts = {
  json() {
    save(new Blob([asJson(shown.map(({ run }) => run))], { type: "application/json" }), nameOf("json"));
  },
  async html() {
    const template = await (await api.fetch("/page/player.html")).text();
    const runs = shown.map(({ run, title, score: found }) => ({ title, events: run.records, score: found }));
    const kept = { prompt: promptOf(shown[0].run), runs };
    save(new Blob([standalone(template, kept)], { type: "text/html" }), nameOf("html"));
  },
  gif: () => picture("gif"),
  png: () => picture("png"),
  async link() {
    location.hash = hash();
    const done = await navigator.clipboard?.writeText(location.href).then(() => true, () => false);
    say(done ? "The link is on the clipboard: it holds the prompt, all settings and the seed." : "The link is in the address bar.");
  },
  score: () => Promise.all(shown.map(score)),
  import() {
    $("#file").click();
  },
};

async function picture(format) {
  const body = JSON.stringify({ format, runs: shown.map(({ run }) => ({ events: run.records })) });
  const response = await api.fetch("/v1/diffusion/pictures", { method: "POST", body });
  save(await response.blob(), nameOf(format));
}

function promptOf(run) {
  const { prompt } = run.created.request;
  return typeof prompt === "string" ? prompt : "";
}

async function load(file) {
  try {
    const runs = fromJson(await file.text()).map((records) => Run.from(records));
    abort?.abort();
    delete document.documentElement.dataset.busy;
    link = null;
    shown = runs.map((run, i) => {
      const { steps = "?", sampler = "" } = run.created.request ?? {};
      const title = `${runs.length > 1 ? `${"ABCD"[i]}: ` : ""}${steps} steps · ${sampler}`;
      return { run, title, score: null, pane: new Pane(run, title, { onseek }) };
    });
    show();
    say(`Loaded ${file.name}.`);
    player.live();
  } catch (error) {
    say(`This file cannot be shown: ${error.message}.`, true);
  }
}

function hash() {
  const kept = new URLSearchParams();
  if (link) kept.set("run", encoded(link));
  kept.set("step", player.at);
  return kept.toString();
}

let later = null;
player.addEventListener("moved", () => {
  clearTimeout(later); // browsers limit the rate of address changes
  later = setTimeout(() => {
    if (!player.playing && shown.length) history.replaceState(null, "", `#${hash()}`);
  }, 200);
});

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (event.submitter?.name === "stop") stop();
  else generate();
});
form.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit($("[name=go]"));
});
$("#share").addEventListener("click", async (event) => {
  const act = event.target.closest("button")?.dataset.act;
  if (!act) return;
  try {
    await acts[act]();
  } catch (error) {
    say(sentence(error.message), true);
  }
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
$("[data-open]").addEventListener("click", acts.import);
for (const button of document.querySelectorAll("[data-example]")) {
  button.addEventListener("click", () => {
    settings.state = JSON.parse(button.dataset.example);
    generate();
  });
}
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
