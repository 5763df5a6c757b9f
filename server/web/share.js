// Exports: files, and links that repeat a run.

import { parsed, written } from "./exact.js";

/** JSON that is safe inside a script element. */
export function inScript(value) {
  const escapes = { "<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029" };
  return JSON.stringify(value).replace(/[<>&\u2028\u2029]/g, (sign) => escapes[sign]);
}

const PLACE = '<script type="application/json" id="trajectories">';

/** A self-contained player; `template` is the server's page without trajectories. */
export function standalone(template, kept) {
  const parts = template.split(PLACE);
  if (parts.length !== 2) throw new Error("the template of the player is not the expected one");
  return parts[0] + PLACE + inScript(kept) + parts[1];
}

/** JSON as the trajectory route returns it, `{id, events}`; for several runs a list. */
export function asJson(runs) {
  const all = runs.map((run) => ({ id: run.created.id, events: run.records }));
  return written(all.length === 1 ? all[0] : all);
}

/** Lists of records from such a file. */
export function fromJson(text) {
  let found;
  try {
    found = parsed(text);
  } catch {
    throw new Error("the file is not JSON");
  }
  const all = Array.isArray(found) ? found : [found];
  if (all.length === 0 || all.length > 4) throw new Error("a file has one to four trajectories");
  return all.map((one) => {
    if (!Array.isArray(one?.events)) throw new Error("the file has no events");
    return one.events;
  });
}

export function encoded(state) {
  const bytes = new TextEncoder().encode(JSON.stringify(state));
  const text = Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
  return btoa(text).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

/** The state that a link contains; null if it is invalid. */
export function decoded(text) {
  try {
    const bytes = Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (sign) => sign.charCodeAt(0));
    const state = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
    return typeof state === "object" && state !== null ? state : null;
  } catch {
    return null;
  }
}

/** Samplers of links that name none: the defaults of their models when such links were made. */
const FORMER = new Map([["stories", "ancestral"]]);

/** The state of a link that names the sampler of each run, whatever the default becomes. */
export function named(state, sampler) {
  return { ...state, variants: state.variants.map((variant) => ({ sampler, ...variant })) };
}

/** The state that an older link stands for. */
export function upToDate(state) {
  const former = FORMER.get(state?.model);
  return former && Array.isArray(state.variants) ? named(state, former) : state;
}

/** Download a file. */
export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
