// OpenAI's SDK for JavaScript. Usage: node openai_node.mjs URL; prints what it saw as JSON.
import OpenAI from "openai";

const url = process.argv[2];
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const chat = {
  model: "stories",
  messages: [{ role: "user", content: "Once upon a time" }],
  max_completion_tokens: 40,
  seed: 7,
  steps: 8,
};
const text = { model: "stories", prompt: "Once upon a time", max_tokens: 40, seed: 7, steps: 8 };
const blocks = { sampler: "topk", mixing_ratio: 0, block_length: 10 };
const seen = {};

const whole = await client.chat.completions.create(chat);
seen.chat = whole.choices[0].message.content;
seen.usage = whole.usage.total_tokens;

const helper = client.chat.completions.stream({
  ...chat,
  stream_options: { include_usage: true },
});
const pieces = [];
helper.on("content", (delta) => pieces.push(delta));
const final = await helper.finalChatCompletion();
seen.helper = final.choices[0].message.content;
seen.pieces = pieces.join("");
seen.helperUsage = final.usage.total_tokens;
seen.runner = await client.chat.completions.stream({ ...chat, n: 2 }).finalContent();

seen.text = (await client.completions.create(text)).choices[0].text;
seen.blocks = (await client.completions.create({ ...text, ...blocks })).choices[0].text;
const parts = [];
for await (const chunk of await client.completions.create({ ...text, ...blocks, stream: true })) {
  parts.push(chunk.choices[0].text);
}
seen.parts = parts.filter((part) => part);
const { tokens, token_logprobs } = (await client.completions.create({ ...text, logprobs: 2 }))
  .choices[0].logprobs;
seen.logprobs = [tokens.length, token_logprobs.length, Math.max(...token_logprobs)];

seen.steps = [];
for await (const chunk of await client.chat.completions.create({
  ...chat,
  stream: true,
  trajectory: "delta",
})) {
  if (chunk.diffusion) seen.steps.push(chunk.diffusion.step);
}

const { response } = await client.models.list().withResponse();
seen.requestId = response.headers.get("x-request-id");
seen.models = [];
for await (const model of client.models.list()) seen.models.push(model.id);

seen.errors = [];
for (const wrong of [{ temperature: 9 }, { model: "gpt-4" }, { stpes: 3 }]) {
  try {
    await client.chat.completions.create({ ...chat, ...wrong });
  } catch (error) {
    seen.errors.push([error.constructor.name, error.status, error.param, error.code]);
  }
}

// hang up in the middle: the slot is free at once
const running = async () => {
  const lines = (await (await fetch(`${url}/metrics`)).text()).split("\n");
  return Number(lines.find((line) => line.startsWith("xdlm_requests_running ")).split(" ")[1]);
};
const long = await client.chat.completions.create({
  ...chat,
  steps: 4000,
  stream: true,
  trajectory: "delta",
});
for await (const chunk of long) {
  if (chunk.diffusion?.step > 1) break;
}
const began = performance.now();
while (await running()) await new Promise((resolve) => setTimeout(resolve, 5));
seen.freedAfterBreak = performance.now() - began;
const aborted = client.chat.completions.stream({ ...chat, steps: 4000 });
while (!(await running())) await new Promise((resolve) => setTimeout(resolve, 5));
aborted.abort();
try {
  await aborted.finalContent();
} catch (error) {
  seen.aborted = error.constructor.name;
}
const again = performance.now();
while (await running()) await new Promise((resolve) => setTimeout(resolve, 5));
seen.freedAfterAbort = performance.now() - again;

console.log(JSON.stringify(seen));
