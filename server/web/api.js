// Requests to the server: authentication, error messages, streams that are resumed.

import { parsed, written } from "./exact.js";
import { EventReader } from "./sse.js";

const RUNS = "/v1/diffusion/trajectories";
const KEPT = "xdlm-key";
const TRIES = 6; // attempts to resume a broken stream
const LONGEST_QUEUE = 10; // seconds between tries while the queue is full: runs ahead may end early
const LOST = "the server was restarted, and this run is lost; generate it again";

/** An error response; `wait` is Retry-After in seconds, if the server sent it. */
export class Problem extends Error {
  constructor(status, error, wait) {
    super(error?.message ?? `the server answered ${status}`);
    Object.assign(this, { status, param: error?.param, code: error?.code, wait });
  }
}

/** The server does not answer at all. */
export class Unreachable extends Error {
  constructor() {
    super("the server does not answer");
  }
}

/** Why a key cannot be sent in a header, without showing the key; empty if it can. */
export function keyProblem(key) {
  const at = [...key].findIndex((sign) => !/^[\x21-\x7e]$/.test(sign));
  if (at < 0) return "";
  return `A key is made of ASCII letters, digits and signs; the character at position ${at + 1} is none of them.`;
}

export class Api {
  /** `askKey(wrong)` resolves to a key or to null. The key is stored for this tab only. */
  constructor(askKey) {
    this.askKey = askKey;
    this.asking = null;
  }

  async fetch(path, { method = "GET", body, headers = {}, signal } = {}) {
    const key = this.key();
    const sent = { ...headers };
    if (key) sent.Authorization = `Bearer ${key}`;
    if (body !== undefined) sent["Content-Type"] = "application/json";
    const response = await answered(path, { method, body, headers: sent, signal, cache: "no-store" });
    if (response.ok) return response;
    if (response.status === 401 && (await this.newKey(key))) {
      return this.fetch(path, { method, body, headers, signal });
    }
    const told = await response.json().catch(() => null);
    const wait = Number(response.headers.get("Retry-After")) || null;
    throw new Problem(response.status, told?.error, wait);
  }

  /** The key stored for this tab, if a header can carry it. */
  key() {
    const kept = sessionStorage.getItem(KEPT);
    if (kept === null || !keyProblem(kept)) return kept;
    sessionStorage.removeItem(KEPT);
    return null;
  }

  /** Delete a refused key and ask for another, once for all requests that were refused. */
  async newKey(used) {
    const now = sessionStorage.getItem(KEPT);
    if (now && now !== used) return true; // another request has asked meanwhile
    sessionStorage.removeItem(KEPT);
    this.asking ??= this.askKey(Boolean(used)).finally(() => {
      this.asking = null;
    });
    const key = await this.asking;
    if (key) sessionStorage.setItem(KEPT, key);
    return Boolean(key);
  }

  async json(path, body) {
    const options = body === undefined ? {} : { method: "POST", body: written(body) };
    return parsed(await (await this.fetch(path, options)).text());
  }

  /** Resolves once the server accepts requests. */
  async back(signal) {
    for (;;) {
      await pause(1000, signal);
      const response = await fetch("/ready", { cache: "no-store", signal }).catch(() => null);
      if (response?.ok) return;
    }
  }

  cancel(id) {
    return this.fetch(`${RUNS}/${id}`, { method: "DELETE" });
  }

  /**
   * Start a run and append its records to `run` as they arrive. Waits while the queue is full, and
   * resumes a broken stream after the last event received. `tell` gets a status line, or "".
   */
  async follow(body, run, { signal, onrecord, tell }) {
    let response = await this.begin(body, signal, tell);
    let tries = 0;
    let last = null;
    let away = false;
    for (;;) {
      try {
        response ??= await this.fetch(`${RUNS}/${run.created.id}`, {
          headers: { Accept: "text/event-stream", "Last-Event-ID": last },
          signal,
        });
        for await (const { event, id, data } of eventsOf(response)) {
          run.append({ event, id, data: parsed(data) });
          last = id;
          tries = 0;
          tell("");
          onrecord();
        }
        if (run.ended) return;
      } catch (error) {
        if (error.status === 404 && run.created !== null) throw new Error(LOST);
        const final = error instanceof Problem && error.status < 500;
        if (signal.aborted || final || run.created === null || !isNetwork(error)) throw error;
        away = error instanceof Unreachable;
      }
      response = null;
      tries += 1;
      if (run.created === null || (tries > TRIES && !away)) throw new Error("the connection broke and could not be resumed");
      if (tries > TRIES) throw new Unreachable();
      tell(`${away ? "The server does not answer; trying again" : "The connection broke; resuming"} (${tries} of ${TRIES}) …`);
      await pause(Math.min(4000, 150 * 2 ** tries), signal);
    }
  }

  async begin(body, signal, tell) {
    for (;;) {
      try {
        const headers = { Accept: "text/event-stream" };
        const sent = { method: "POST", body: written(body), headers, signal };
        const response = await this.fetch(RUNS, sent);
        tell("");
        return response;
      } catch (error) {
        const full = error instanceof Problem && (error.status === 429 || error.status === 503);
        if (!full) throw error;
        const most = error.code === "queue_full" ? LONGEST_QUEUE : Infinity;
        for (let left = Math.min(error.wait ?? 2, most); left > 0; left -= 1) {
          tell(`${sentence(error.message)} Trying again in ${left} s …`);
          await pause(1000, signal);
        }
      }
    }
  }
}

async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const events = new EventReader();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    yield* events.feed(value);
  }
}

/** fetch throws a TypeError when the connection fails. */
async function answered(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    throw error instanceof TypeError ? new Unreachable() : error;
  }
}

/** The errors of a connection that fails, also in the middle of an answer; any other is a bug. */
const isNetwork = (error) => [TypeError, Problem, Unreachable].some((one) => error instanceof one);

export function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}
