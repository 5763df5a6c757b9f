// The request of a run as code: curl, Python and JavaScript. Pure.

import { written } from "./exact.js";

const OPENAI = ["model", "prompt", "suffix", "max_tokens", "n", "seed", "stop", "temperature", "top_p", "logit_bias", "logprobs", "echo"];

/** The route and body that give the shown run's answer. */
export function requestOf({ created }) {
  const { class_label: label, ...request } = created.request;
  const body = label === undefined ? request : { ...request, class_label: label };
  if (body.seed === undefined) body.seed = created.seed;
  if (body.class_labels) return { path: "/v1/diffusion/trajectories", body };
  return { path: created.image ? "/v1/images/generations" : "/v1/completions", body };
}

/** Examples by language, for a server at `origin`. */
export function examples(run, origin) {
  const { path, body } = requestOf(run);
  return { curl: curl(path, body, origin), Python: body.class_labels || path.includes("images") ? plainPython(path, body, origin) : python(body, origin), JavaScript: javascript(path, body, origin) };
}

/** Recordings come as one document, rather than as a stream, where that is asked for. */
const isRecording = (path) => path.includes("trajectories");

function curl(path, body, origin) {
  const quoted = written(body).replaceAll("'", `'\\''`);
  const accept = isRecording(path) ? "-H 'Accept: application/json' " : "";
  return `curl ${origin}${path} ${accept}-H 'Content-Type: application/json' \\\n  -d '${quoted}'`;
}

function python(body, origin) {
  const own = Object.entries(body).filter(([name]) => OPENAI.includes(name));
  const extra = Object.fromEntries(Object.entries(body).filter(([name]) => !OPENAI.includes(name)));
  const given = own.map(([name, value]) => `    ${name}=${literal(name, value)},`);
  return [
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url="${origin}/v1", api_key="none")`,
    "done = client.completions.create(",
    ...given,
    `    extra_body=${literal("", extra)},`,
    ")",
    "print(done.choices[0].text)",
  ].join("\n");
}

function plainPython(path, body, origin) {
  return [
    "import json",
    "from urllib.request import Request, urlopen",
    "",
    `body = ${literal("", body)}`,
    `request = Request("${origin}${path}", json.dumps(body).encode(), {"Content-Type": "application/json"${isRecording(path) ? ', "Accept": "application/json"' : ""}})`,
    "print(json.load(urlopen(request)))",
  ].join("\n");
}

function javascript(path, body, origin) {
  return [
    `const response = await fetch("${origin}${path}", {`,
    '  method: "POST",',
    `  headers: { "Content-Type": "application/json"${isRecording(path) ? ', Accept: "application/json"' : ""} },`,
    `  body: ${JSON.stringify(written(body))},`,
    "});",
    "console.log(await response.json());",
  ].join("\n");
}

/** A JSON value in Python. */
function literal(name, value) {
  if (name === "seed") return String(value);
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map((one) => literal("", one)).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([key, one]) => `${JSON.stringify(key)}: ${literal(key, one)}`).join(", ")}}`;
  return JSON.stringify(value);
}
