// Vercel's AI SDK. Usage: node ai_sdk.mjs URL; prints what it saw as JSON.
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";

const baseURL = `${process.argv[2]}/v1`;
const compatible = createOpenAICompatible({
  name: "xdlm",
  baseURL,
  includeUsage: true,
  transformRequestBody: (body) => ({ ...body, steps: 8 }),
});
const openai = createOpenAI({ baseURL, apiKey: "none" });
const models = {
  compatible: compatible.chatModel("stories"),
  compatibleText: compatible.completionModel("stories"),
  openai: openai.chat("stories"),
  openaiText: openai.completion("stories"),
};
const asked = {
  prompt: "Once upon a time",
  system: "You tell stories.",
  maxOutputTokens: 40,
  temperature: 0.3,
  seed: 7,
  maxRetries: 0,
};
// the completion models write a dialogue around the prompt and stop at the next "user:"
const seen = {};
for (const [name, model] of Object.entries(models)) {
  const whole = await generateText({ model, ...asked });
  const streamed = streamText({
    model,
    ...asked,
    onError: ({ error }) => {
      throw error;
    },
  });
  const parts = [];
  for await (const part of streamed.textStream) parts.push(part);
  seen[name] = {
    text: whole.text,
    reason: whole.finishReason,
    tokens: [whole.usage.inputTokens, whole.usage.outputTokens],
    streamed: parts.join(""),
    streamedReason: await streamed.finishReason,
    streamedTokens: [(await streamed.usage).inputTokens, (await streamed.usage).outputTokens],
  };
}

// a second turn: the SDK sends back what it got
const { response } = await generateText({ model: models.compatible, ...asked });
const talk = [{ role: "user", content: "Once upon a time" }, ...response.messages];
talk.push({ role: "user", content: "Tom had a dog." });
const { prompt, ...rest } = asked;
seen.secondTurn = (
  await generateText({ model: models.compatible, ...rest, messages: talk })
).text;

try {
  await generateText({ model: models.compatible, ...asked, temperature: 9 });
} catch (error) {
  seen.error = [error.constructor.name, error.statusCode, error.message];
}

const wanted = { xdlm: { sampler: "topk", mixing_ratio: 0, block_length: 10 } };
const blocks = { model: models.compatible, ...asked, providerOptions: wanted };
seen.blocks = [];
for await (const part of streamText(blocks).textStream) seen.blocks.push(part);

console.log(JSON.stringify(seen));
