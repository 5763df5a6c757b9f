// Vercel's AI SDK: objects and tools. Usage: node structured_ai_sdk.mjs URL; prints JSON.
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, Output, streamObject, streamText, tool } from "ai";
import { z } from "zod";

const baseURL = `${process.argv[2]}/v1`;
const compatible = createOpenAICompatible({
  name: "xdlm",
  baseURL,
  supportsStructuredOutputs: true,
});
const openai = createOpenAI({ baseURL, apiKey: "none" });
const models = {
  compatible: compatible.chatModel("caller"),
  chat: openai.chat("caller"),
  responses: openai("caller"),
};
const pet = z.object({
  name: z.string().max(12),
  kind: z.enum(["cat", "dog"]),
  age: z.number().int().min(0).max(30),
});
const add = tool({
  description: "Add two numbers.",
  inputSchema: z.object({ a: z.number().int(), b: z.number().int() }),
  execute: async ({ a, b }) => a + b,
});
const asked = { prompt: "A pet:", maxOutputTokens: 100, maxRetries: 0 };
const onError = ({ error }) => {
  throw error;
};
const seen = {};

for (const [name, model] of Object.entries(models)) {
  const found = { model, ...asked };
  const { object } = await generateObject({ ...found, schema: pet });
  const streamed = streamObject({ ...found, schema: pet, onError });
  for await (const _ of streamed.partialObjectStream);
  const { output } = await generateText({ ...found, output: Output.object({ schema: pet }) });
  const values = [object, await streamed.object, output];
  const choice = await generateObject({ ...found, output: "enum", enum: ["sad", "so so"] });

  const called = await generateText({ ...found, tools: { add }, toolChoice: "required" });
  const [result] = called.toolResults;
  const { prompt, ...rest } = found;
  const talk = [{ role: "user", content: prompt }, ...called.response.messages];
  const ended = await generateText({
    ...rest,
    messages: [...talk, { role: "user", content: "A pet:" }],
    output: Output.object({ schema: pet }),
  });
  const flow = streamText({ ...found, tools: { add }, toolChoice: "required", onError });
  const results = [];
  for await (const part of flow.fullStream) if (part.type === "tool-result") results.push(part);

  seen[name] = {
    valid: values.map((value) => pet.safeParse(value).success),
    choice: ["sad", "so so"].includes(choice.object),
    reason: called.finishReason,
    sum: result.output === result.input.a + result.input.b,
    ended: pet.safeParse(ended.output).success,
    streamed: results.map((part) => part.output === part.input.a + part.input.b),
  };
}
console.log(JSON.stringify(seen));
