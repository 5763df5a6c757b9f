// OpenAI's SDK for JavaScript: parsed answers. Usage: node structured_openai_node.mjs URL; prints JSON.
import OpenAI from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "none", maxRetries: 0 });
const pet = z.object({
  name: z.string().max(12),
  kind: z.enum(["cat", "dog"]),
  age: z.number().int().min(0).max(30),
});
const chat = {
  model: "caller",
  messages: [{ role: "user", content: "A pet:" }],
  max_completion_tokens: 100,
  response_format: zodResponseFormat(pet, "pet"),
};
const respond = {
  model: "caller",
  input: "A pet:",
  max_output_tokens: 100,
  text: { format: zodTextFormat(pet, "pet") },
};
const whole = await client.chat.completions.parse(chat);
const streamed = await client.chat.completions.stream(chat).finalChatCompletion();
const answer = await client.responses.parse(respond);
const last = await client.responses.stream(respond).finalResponse();
const values = {
  chat: whole.choices[0].message.parsed,
  chatStream: streamed.choices[0].message.parsed,
  responses: answer.output_parsed,
  responsesStream: last.output_parsed,
};
const valid = Object.entries(values).map(([name, value]) => [name, pet.safeParse(value).success]);
console.log(JSON.stringify(Object.fromEntries(valid)));
