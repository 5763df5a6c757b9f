import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { curves } from "../../server/web/charts.js";
import { examples, requestOf } from "../../server/web/code.js";
import { digits, parsed, written } from "../../server/web/exact.js";
import { cellTexts } from "../../server/web/pieces.js";
import { modelFor, PRESETS } from "../../server/web/presets.js";
import { Run } from "../../server/web/reducer.js";
import { likeliest, rerun } from "../../server/web/rerun.js";
import { RULES } from "../../server/web/samplers.js";
import { newest, timeline } from "../../server/web/timeline.js";

const load = (name) =>
  Run.from(JSON.parse(readFileSync(new URL(`recorded/${name}.json`, import.meta.url))).events);

test("bytes that make a character are one cell, whatever stands between them", () => {
  const parts = [null, [0xe4], [0xbd], [0xa0], null, [0xd9, 0x85], [0xf0], null];
  const { texts, joined } = cellTexts(["a", "�", "�", "�", "b", "�", "�", "mask"], parts);
  assert.deepEqual(texts, ["a", "你", "", "", "b", "م", "", "mask"]);
  assert.deepEqual([...joined], [0, 0, 1, 1, 0, 0, 2, 0]);
});

test("a token may end a character and begin the next", () => {
  const bytes = [...new TextEncoder().encode("好ï🙂")];
  for (let first = 1; first < bytes.length; first += 1) {
    const parts = [bytes.slice(0, first), bytes.slice(first)];
    assert.equal(cellTexts(["�", "�"], parts).texts.join(""), "好ï🙂");
  }
  const all = bytes.map((byte) => [byte]);
  assert.equal(cellTexts(all.map(() => "�"), all).texts.join(""), "好ï🙂");
});

test("bytes that are no character are shown as incomplete", () => {
  for (const bad of [[0xff], [0xe4, 0xbd], [0x80], [0xed, 0xa0, 0x80], [0xc0, 0xaf]]) {
    const { texts, joined } = cellTexts(["�"], [bad]);
    assert.equal(texts[0].replace(/[ -~]/g, ""), "");
    assert.equal(joined[0], 2);
  }
});

test("texts without parts are the same list", () => {
  const texts = ["a", "b"];
  assert.equal(cellTexts(texts, [null, null]).texts, texts);
});

test("seeds keep their digits, and texts that look like them do too", () => {
  for (const seed of ["9223372036854775783", "-9223372036854775808", "1", "0", "9007199254740993"]) {
    const text = `{"seed":${seed},"a":[{"seed": ${seed}}],"prompt":"{\\"seed\\":9223372036854775783}"}`;
    const back = written(parsed(text));
    assert.equal(back, text.replace('{"seed": ', '{"seed":'));
  }
  assert.equal(digits(" 9223372036854775783 "), "9223372036854775783");
  assert.equal(digits("1e3"), "1000");
  assert.equal(digits("x"), "");
});

test("an edited canvas is a body that writes the rest", () => {
  const run = load("story");
  const [track] = run.tracks;
  const last = track.length - 1;
  const at = track.editable.indexOf(1) + 2;
  const { ids } = track.state(last);
  const kept = rerun(run, track, last, { kind: "keep", position: at });
  assert.equal(kept.prompt[at], ids[at]);
  assert.equal(kept.prompt.filter((id) => id === track.mask).length, track.written - 1);
  assert.ok(kept.infill && kept.max_tokens === 0 && kept.suffix === undefined);
  assert.equal(rerun(run, track, last, { kind: "replace", position: at, id: 77 }).prompt[at], 77);
  const again = rerun(run, track, last, { kind: "mask", position: at });
  assert.deepEqual(again.prompt.map((id, i) => (i === at ? ids[at] : id)), [...ids]);
  assert.equal(again.prompt[at], track.mask);
});

test("the likeliest tokens come in their order", () => {
  const track = { editable: Uint8Array.from([0, 0, 1, 1]) };
  const choice = { logprobs: { top_logprobs: [{ a: -1 }, { b: -2, c: -0.1 }], entropies: [1, 2] } };
  const { tokens, entropy } = likeliest(choice, track, 3);
  assert.deepEqual(tokens.map(([text]) => text), ["c", "b"]);
  assert.equal(entropy, 2);
  assert.equal(likeliest(choice, track, 4), null);
});

test("guesses are of the shown step, and wrong ones are refused", () => {
  const choice = { index: 0, positions: 3, editable: [[0, 3]] };
  const created = { event: "diffusion.created", data: { choices: [choice], mask: { id: 9 } } };
  const snapshot = { ids: [9, 9, 9], texts: ["?", "?", "?"] };
  const step = (number, guesses, more = {}) => ({ event: "diffusion.step", data: { choice: 0, step: number, steps: 2, masked: 3, changes: [], guesses, ...more } });
  const guesses = { pos: [0, 2], ids: [4, 5], texts: [" a", " b"], conf: [0.5, 0.25] };
  const run = Run.from([created, step(0, undefined, { snapshot }), step(1, guesses), step(2, { pos: [], ids: [], texts: [], conf: [] })]);
  const [track] = run.tracks;
  assert.deepEqual([0, 1, 2].map((k) => track.state(k).guesses.size), [0, 2, 0]);
  assert.deepEqual(track.state(1).guesses.get(2), { id: 5, text: " b", conf: 0.25 });
  assert.ok(run.guesses);
  for (const wrong of [{ ...guesses, conf: [0.5] }, { ...guesses, pos: [0, 3] }, { ids: [4] }]) {
    assert.throws(() => Run.from([created, step(0, wrong, { snapshot })]), /guess/);
  }
});

test("the picture of each sampler follows its rule", () => {
  const masks = new Set(".x");
  for (const [name, { steps, help }] of Object.entries(RULES)) {
    assert.ok(help.length > 30 && steps.every((step) => step.length === 12), name);
    assert.equal(steps.at(-1), "#".repeat(12), name);
    steps.slice(1).forEach((step, i) => {
      [...step].forEach((sign, at) => {
        const before = steps[i][at];
        const where = `${name}, step ${i + 1}, position ${at}`;
        if (sign === ".") assert.ok(masks.has(before), where);
        if (sign === "x" || sign === "~") assert.ok(!masks.has(before), where);
        if (sign === "+") assert.ok(masks.has(before) || before === "n", where);
        if (sign === "#") assert.ok(!masks.has(before) && before !== "n", where);
      });
    });
  }
});

test("code has the whole request", () => {
  const run = load("digits");
  assert.equal(requestOf(run).path, "/v1/images/generations");
  const several = { created: { ...run.created, request: { model: "digits", class_labels: [0, 1], seed: 5 } } };
  for (const code of Object.values(examples(several, "http://localhost:8000"))) {
    assert.ok(code.includes("/v1/diffusion/trajectories") && /Accept"?: /.test(code) && /class_labels/.test(code));
  }
  const story = load("story");
  const code = examples(story, "http://localhost:8000");
  assert.deepEqual(Object.keys(code), ["curl", "Python", "JavaScript"]);
  assert.ok(code.Python.includes(`seed=${story.created.request.seed ?? story.created.seed}`));
  assert.ok(!code.Python.includes("true") && code.JavaScript.includes("/v1/completions"));
});

test("curves have a value for each frame", () => {
  const [track] = load("story").tracks;
  for (const { lines } of curves(track.frames)) {
    for (const [, line] of lines) assert.equal(line.length, track.length);
  }
});

test("the play head waits for the slowest of several choices", () => {
  const whole = load("digits");
  const run = new Run();
  const lengths = () => run.tracks.map((track) => track.length);
  for (const record of whole.records.slice(0, -1)) {
    run.append(record);
    if (run.length === 0) continue;
    const { frames } = timeline([run], "progress");
    assert.equal(newest([run], "progress", frames.length), Math.max(0, Math.min(...lengths()) - 1));
  }
  assert.ok(lengths().length > 1);
});

test("before its first record a canvas is masked", () => {
  const run = new Run();
  run.append(load("story").records[0]);
  const [track] = run.tracks;
  assert.ok(track.state(0).ids.every((id) => id === track.mask));
});

test("a preset finds the first model that it is for", () => {
  const text = { id: "t", diffusion: { image: null, samplers: ["ancestral", "topk"], classes: 0 } };
  const image = { id: "i", diffusion: { image: {}, samplers: ["ancestral"], classes: 10 } };
  assert.equal(modelFor(PRESETS.race, [image, text]), text);
  assert.equal(modelFor(PRESETS.digits, [text, image]), image);
  assert.equal(modelFor(PRESETS.sure, [text, image]), undefined);
});
