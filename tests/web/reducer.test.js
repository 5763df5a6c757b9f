import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { OPS, Run } from "../../server/web/reducer.js";

const load = (name) => JSON.parse(readFileSync(new URL(`recorded/${name}.json`, import.meta.url))).events;
const stepsOf = (events, choice) =>
  events.filter((one) => one.event === "diffusion.step" && one.data.choice === choice).map((one) => one.data);

for (const name of ["story", "blocks", "digits"]) {
  test(`${name}: every state is what the records say, whichever was asked for before`, () => {
    const events = load(name);
    const run = Run.from(events);
    run.tracks.forEach((track, choice) => {
      const steps = stepsOf(events, choice);
      assert.equal(track.length, steps.length);
      const states = []; // the slow way: from the front, with plain objects
      let ids = [...steps[0].snapshot.ids];
      let texts = [...steps[0].snapshot.texts];
      for (const step of steps) {
        for (const change of step.changes) {
          ids[change.pos] = change.id;
          texts[change.pos] = change.text;
        }
        states.push({ ids: [...ids], texts: [...texts] });
        if (step.snapshot) assert.deepEqual(step.snapshot.ids, ids);
      }
      const order = [...states.keys()].sort((a, b) => ((a * 37) % 101) - ((b * 37) % 101));
      for (const frame of order) {
        const state = track.state(frame);
        assert.deepEqual([...state.ids], states[frame].ids);
        assert.deepEqual(state.texts, states[frame].texts);
        assert.equal(state.ids.filter((id) => id === track.mask).length, track.frames[frame].masked);
        for (const change of steps[frame].changes) {
          assert.equal(state.wrote[change.pos], frame);
          assert.equal(OPS[state.ops[change.pos]], change.op);
          assert.ok(Math.abs(state.confs[change.pos] - change.conf) < 1e-6);
        }
      }
      assert.deepEqual([...track.state(track.length - 1).ids], run.completed.choices[choice].ids);
    });
    const used = run.completed.usage.diffusion;
    const sums = { unmasked: 0, refined: 0, remasked: 0 };
    for (const track of run.tracks) {
      for (const kind of Object.keys(sums)) sums[kind] += track.frames.at(-1)[kind];
    }
    for (const kind of Object.keys(sums)) assert.equal(sums[kind], used[kind]);
  });
}

test("a state belongs to who asked for it", () => {
  const [track] = Run.from(load("story")).tracks;
  const first = track.state(40);
  first.ids.fill(7);
  first.texts.fill("x");
  assert.notEqual(track.state(40).ids[10], 7);
  assert.notEqual(track.state(40).texts[10], "x");
});

test("while it grows, states are those of the finished run", () => {
  const events = load("story");
  const whole = Run.from(events).tracks[0];
  const run = new Run();
  for (const event of events) {
    run.append(event);
    const track = run.tracks[0];
    if (track.length === 0) continue;
    const state = track.state(track.length - 1);
    assert.deepEqual(state, whole.state(track.length - 1));
  }
  assert.ok(run.ended && !run.cut);
});

test("a position's history is all its changes", () => {
  const events = load("story");
  const [track] = Run.from(events).tracks;
  const changes = stepsOf(events, 0).flatMap((step) => step.changes);
  assert.equal(track.histories.flat().length, changes.length);
  assert.ok(changes.some(({ op }) => op === "refine") && changes.some(({ op }) => op === "remask"));
  track.histories.forEach((history, pos) => {
    assert.deepEqual(history.map(({ id }) => id), changes.filter((one) => one.pos === pos).map(({ id }) => id));
  });
});

test("a state far into a long run takes no longer than an early one", () => {
  const [created, first] = load("blocks");
  const run = Run.from([created, first]);
  const at = run.tracks[0].editable.indexOf(1);
  for (let step = 1; step <= 4000; step += 1) {
    const change = { pos: at, op: "refine", id: step, text: ` ${step}`, was: 0, conf: 0.5 };
    run.append({ event: "diffusion.step", data: { ...first.data, snapshot: undefined, step, changes: [change] } });
  }
  const [track] = run.tracks;
  let read = 0;
  track.frames = track.frames.map((frame) => ({ ...frame, get changes() { read += 1; return [{ pos: at, op: "refine", id: 1, text: "", conf: 0 }]; } }));
  track.state(3999);
  assert.ok(read < 40, `${read} records read`);
});

test("what is no recording is refused, with its record", () => {
  const events = load("story");
  const changed = (n, change) => events.map((one, i) => (i === n ? { ...one, data: { ...one.data, ...change } } : one));
  const bad = [
    [[], /no records/],
    [[events[1]], /record 0: is not diffusion.created/],
    [[events[0], events[0]], /record 1: is a second beginning/],
    [[events[0], events[2]], /record 1: .*no snapshot/],
    [changed(3, { changes: [{ pos: 1e6, op: "unmask", id: 1, text: "a", conf: 1 }] }), /record 3: .*position/],
    [changed(3, { changes: [{ pos: 6, op: "burn", id: 1, text: "a" }] }), /record 3: .*burn/],
    [changed(3, { choice: 4 }), /record 3: there is no choice 4/],
    [changed(1, { snapshot: { ids: [1], texts: ["a"] } }), /record 1: .*length/],
    [changed(3, { changes: [{ pos: 6, op: "unmask", id: "1", text: "a", conf: 1 }] }), /record 3: .*token/],
    [changed(0, { image: { width: 1e9, height: 3, channels: 1, tokens: "grey levels", levels: 8 } }), /record 0: .*size/],
    [changed(0, { choices: [{ positions: -3 }] }), /record 0: .*positions/],
    [[null], /record 0/],
  ];
  for (const [records, message] of bad) assert.throws(() => Run.from(records), { message });
});

test("a recording without an end is over nevertheless", () => {
  const run = Run.from(load("story").slice(0, 9));
  assert.ok(run.ended && run.cut && run.completed === null);
});
