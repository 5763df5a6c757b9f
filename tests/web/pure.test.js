import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { keyProblem } from "../../server/web/api.js";
import { balanced, even, SHAPES } from "../../server/web/budgets.js";
import { Run } from "../../server/web/reducer.js";
import { asJson, decoded, encoded, fromJson, inScript, named, standalone, upToDate } from "../../server/web/share.js";
import { EventReader } from "../../server/web/sse.js";
import { newest, timeline } from "../../server/web/timeline.js";

const text = (name) => readFileSync(new URL(`recorded/${name}.json`, import.meta.url), "utf8");
const load = (name) => Run.from(JSON.parse(text(name)).events);
const sum = (list) => list.reduce((a, b) => a + b, 0);

test("by progress all runs begin and end together", () => {
  const runs = [load("story"), load("blocks")];
  const { frames } = timeline(runs, "progress");
  assert.equal(frames.length, runs[0].length);
  assert.deepEqual(frames[0], [0, 0]);
  assert.deepEqual(frames.at(-1), runs.map((run) => run.length - 1));
  frames.slice(1).forEach((now, i) => now.forEach((frame, j) => assert.ok(frame >= frames[i][j])));
});

test("by time each run shows what it had reached", () => {
  const runs = [load("story"), load("blocks")];
  const { frames, times } = timeline(runs, "time");
  assert.equal(frames.length, times.length);
  times.forEach((time, i) =>
    runs.forEach((run, j) => {
      const steps = run.tracks[0].frames;
      const shown = frames[i][j];
      assert.ok(steps[shown].elapsed <= time || shown === 0);
      assert.ok(shown === steps.length - 1 || steps[shown + 1].elapsed > time);
    }),
  );
});

test("a run under way has places that are still to come", () => {
  const run = new Run();
  JSON.parse(text("story")).events.slice(0, 21).forEach((event) => run.append(event));
  const { frames } = timeline([run], "progress");
  assert.equal(frames.length, 81);
  assert.equal(newest([run], "progress", frames.length), 19);
  assert.deepEqual(frames.at(-1), [19]);
});

test("schedules keep their sum", () => {
  for (const [total, steps] of [[64, 8], [10, 32], [1, 1], [100, 7]]) {
    for (const shape of Object.values(SHAPES)) {
      const budget = shape(total, steps);
      assert.equal(budget.length, steps);
      assert.equal(sum(budget), total);
      assert.ok(budget.every((one) => Number.isInteger(one) && one >= 0));
      for (const value of [0, 1, 5, total, 9999]) {
        const next = balanced(budget, steps >> 1, value, total);
        assert.equal(sum(next), total);
        assert.ok(next.every((one) => Number.isInteger(one) && one >= 0));
        if (steps > 1) assert.equal(next[steps >> 1], Math.min(value, total));
      }
    }
  }
  assert.deepEqual(even(10, 4), [3, 3, 2, 2]);
});

test("events come out whole, however the bytes are cut", () => {
  const stream = "\uFEFFid: a:1\r\nevent: one\r\ndata: {\"x\": 1}\r\n\r\n: ping\n\nid:a:2\ndata: first\ndata: second\n\nevent: empty\n\n";
  const expected = [
    { event: "one", id: "a:1", data: '{"x": 1}' },
    { event: "message", id: "a:2", data: "first\nsecond" },
  ];
  for (let size = 1; size < stream.length; size += 1) {
    const reader = new EventReader();
    const found = [];
    for (let at = 0; at < stream.length; at += size) found.push(...reader.feed(stream.slice(at, at + size)));
    assert.deepEqual(found, expected, `pieces of ${size}`);
  }
});

test("an export is what the route answers, and comes back", () => {
  const given = JSON.parse(text("story"));
  const run = Run.from(given.events);
  assert.deepEqual(JSON.parse(asJson([run])), given);
  const both = fromJson(asJson([run, load("digits")]));
  assert.deepEqual(both[0], given.events);
  assert.equal(both.length, 2);
  for (const bad of ["", "[]", "{}", "3", '{"events": 3}', "[1,2,3,4,5]"]) assert.throws(() => fromJson(bad));
});

test("nothing in an exported page ends its script", () => {
  const nasty = { text: "</script><script>alert(1)</script><!-- $& $1 \u2028", deep: ["<!--", "&lt;"] };
  const place = '<script type="application/json" id="trajectories"></script>';
  const page = standalone(`<p></p>${place}<p></p>`, nasty);
  assert.equal(page.match(/<\/?script/g).length, 2);
  assert.ok(!page.includes("<!--") && !page.includes("\u2028"));
  const [, inside] = /id="trajectories">(.*)<\/script>/.exec(page);
  assert.deepEqual(JSON.parse(inside), nasty);
  assert.equal(inScript("<"), '"\\u003c"');
  assert.throws(() => standalone("<p>no place</p>", nasty));
});

test("a link holds any prompt", () => {
  const state = { prompt: "Ünïcødé 🦊 </script> \u0000", variants: [{ steps: 3 }], seed: 7 };
  assert.match(encoded(state), /^[\w-]+$/);
  assert.deepEqual(decoded(encoded(state)), state);
  for (const bad of ["", "!!", "AAAA", "bnVsbA"]) assert.equal(decoded(bad), null);
});

test("a link names its samplers, and older ones mean the defaults of their time", () => {
  const variants = [{ steps: 8 }, { steps: 4, sampler: "topk" }];
  const older = { model: "stories", variants };
  const meant = [{ steps: 8, sampler: "ancestral" }, { steps: 4, sampler: "topk" }];
  assert.deepEqual(upToDate(older), { model: "stories", variants: meant });
  assert.deepEqual(named(older, "dream").variants[0], { steps: 8, sampler: "dream" });
  for (const other of [null, {}, { model: "stories" }, { model: "mine", variants }]) assert.equal(upToDate(other), other);
});

test("a key that no header can carry has a problem that says where", () => {
  for (const key of ["sk-0123", "!~", "a"]) assert.equal(keyProblem(key), "");
  for (const [key, at] of [["clé", 3], ["a b", 2], ["\n", 1], ["a\u0000", 2], ["ab🦊c", 3], ["\x7f", 1]]) {
    assert.match(keyProblem(key), new RegExp(`position ${at} `));
  }
});
