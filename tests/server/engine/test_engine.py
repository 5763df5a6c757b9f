"""The real engine on a tiny real model."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from models.checkpoints.load import load_checkpoint
from models.families.llada import LLaDA
from sampler import SAMPLERS, make_params
from sampler.batch import CanvasBatch
from sampler.step import take_step
from server.engine.events import Change, Done, Failed, GenerationRequest, LogProbs, Step
from server.engine.scheduler import QueueFull
from tests.support.effort import count
from tests.support.engine import request, result, until_idle
from tests.support.serving import make_engine


@pytest.fixture
async def engine(tiny):
    engine = make_engine(tiny, max_waiting=40)
    engine.start()
    yield engine
    engine.stop()


async def test_sixteen_together_give_the_bytes_of_each_alone(engine):
    requests = [
        request(i, length=7 + count(3, 13) * i, steps=3 + i, mixing_ratio=0.1 * (i % 4))
        for i in range(16)
    ]
    together = await asyncio.gather(*(result(engine.submit(r)) for r in requests))
    for r, done in zip(requests, together, strict=True):
        alone = await result(engine.submit(r))
        assert isinstance(done, Done) and isinstance(alone, Done)
        assert alone.tokens == done.tokens
        assert done.tally.steps == r.params.steps


async def test_sixteen_of_all_kinds_give_the_tokens_of_each_alone(engine):
    """Samplers, steps from 4 to 64 (19 in ``make test``), k, blocks, temperatures, guidance, seeds
    and lengths mixed.
    """
    kinds = [
        {"sampler": "ancestral"},
        {"sampler": "topk", "block_length": 9, "refine_scope": "block"},
        {"sampler": "topk", "mixing_ratio": 0.0, "remasking": "random"},
        {"sampler": "threshold", "block_length": 16, "confidence_threshold": 0.3},
        {"sampler": "topk", "confidence_eos_eot_inf": True, "temperature": 0.0},
        {"sampler": "threshold", "entropy_bound": 2.0, "logits_eos_inf": True},
        {"sampler": "gidd", "p_uniform": 0.4},
        {"sampler": "remdm", "remdm_schedule": "loop", "remdm_eta": 0.1},
    ]
    requests = []
    for i in range(16):
        chosen = {
            "steps": 4 + count(1, 4) * i,
            "mixing_ratio": 0.1 * (i % 4),
            "temperature": 0.4 * (i % 3),
        }
        chosen |= {"guidance_scale": 1.0 + 0.5 * (i % 5 == 0)}
        requests.append(
            request(i, length=5 + count(3, 9) * ((7 * i) % 16), **(chosen | kinds[i % 8]))
        )
    for r in requests:  # blocks need a step each
        free = sum(r.editable)
        assert r.params.steps >= -(-free // r.params.own.block_positions(free))
    together = await asyncio.gather(*(result(engine.submit(r)) for r in requests))
    for r, done in zip(requests, together, strict=True):
        alone = await result(engine.submit(r))
        assert isinstance(done, Done) and isinstance(alone, Done)
        assert (alone.tokens, alone.tally.steps) == (done.tokens, done.tally.steps)


async def test_replaying_the_steps_gives_the_final_canvas(engine):
    r = request(3, length=60, wants_steps=True, steps=12, mixing_ratio=0.3)
    canvas, ops, steps, tally = [], [], [], None
    async for event in engine.submit(r):
        if isinstance(event, Step):
            if event.canvas is not None:
                canvas = list(event.canvas)
            for c in event.changes:
                assert canvas[c.position] == c.old
                canvas[c.position] = c.new
                ops.append(c.op)
            steps.append((event.step, event.final))
        else:
            assert isinstance(event, Done)
            assert tuple(canvas) == event.tokens
            tally = event.tally
    assert {"unmask", "refine", "remask"} == set(ops)
    assert tally is not None
    assert [ops.count(o) for o in ("unmask", "refine", "remask")] == [
        tally.unmasked,
        tally.refined,
        tally.remasked,
    ]
    assert steps == [(i, False) for i in range(13)] + [(12, True)]
    assert canvas[: len(r.tokens) - 60] == r.tokens[:-60]


async def test_a_slow_reader_finds_steps_merged_and_the_end_intact(engine):
    r = request(1, length=40, wants_steps=True, steps=50, mixing_ratio=0.3)
    subscription = engine.submit(r)
    await until_idle(engine)
    await asyncio.sleep(0.05)
    events = [event async for event in subscription]
    assert len(events) < 15
    assert isinstance(events[-1], Done)
    canvas = list(events[0].canvas)
    for event in events[1:-1]:
        for c in event.changes:
            assert canvas[c.position] == c.old
            canvas[c.position] = c.new
    assert tuple(canvas) == events[-1].tokens
    assert events[-2].final and events[-2].step == 50


def test_merging_steps():
    first = Step(1, 9, (Change(0, "unmask", 5, 7, 0.5), Change(2, "remask", 8, 5, 0.0)))
    second = Step(2, 9, (Change(1, "unmask", 5, 6, 0.5), Change(2, "unmask", 5, 9, 0.9)))
    merged = first.merged(second)
    assert merged.step == 2
    assert [(c.position, c.old, c.new) for c in merged.changes] == [(0, 5, 7), (1, 5, 6), (2, 8, 9)]
    told = [LogProbs(step, -0.5, ()) for step in range(3)]
    one, two = replace(first, completed=((0, told[0]), (2, told[1]))), replace(second, completed=())
    assert one.merged(two).completed == one.completed
    two = replace(second, completed=((1, told[2]), (2, told[2])))
    assert one.merged(two).completed == ((0, told[0]), (1, told[2]), (2, told[2]))
    start = Step(0, 9, (), (5, 5, 8))
    assert start.merged(first).merged(second).canvas == (7, 6, 9)


async def test_a_full_queue_refuses_at_once(tiny):
    engine = make_engine(tiny, max_waiting=1, max_running=1)
    engine.start()
    try:
        running = engine.submit(request(0, length=100, steps=3000))
        while not engine.scheduler.running:
            await asyncio.sleep(0.001)
        waiting = engine.submit(request(1))
        began = time.monotonic()
        with pytest.raises(QueueFull):
            engine.submit(request(2))
        assert time.monotonic() - began < 0.05
        running.cancel()
        assert isinstance(await result(waiting), Done)
        await until_idle(engine)
    finally:
        engine.stop()


async def test_cancelling_frees_the_slot_and_hurts_nobody(engine):
    steady = request(4, length=50, steps=60)
    alone = await result(engine.submit(steady))
    others = [engine.submit(request(i, length=80, steps=2000)) for i in range(5)]
    mine = engine.submit(steady)
    await asyncio.sleep(0.05)
    for other in others:
        other.cancel()
        other.cancel()  # once is enough
    kept = await result(mine)
    assert isinstance(kept, Done) and isinstance(alone, Done) and kept.tokens == alone.tokens
    await until_idle(engine, 1.0)


async def test_stopping_ends_every_stream_once(tiny):
    engine = make_engine(tiny, max_running=2)
    engine.start()
    streams = [engine.submit(request(i, steps=4000)) for i in range(5)]
    while not engine.scheduler.running:
        await asyncio.sleep(0.001)
    engine.stop()
    for stream in streams:
        events = [e async for e in stream]
        assert [type(e) for e in events] == [Failed]
    assert not engine.ready
    assert (engine.scheduler.running, engine.scheduler.waiting) == (0, 0)
    assert b'failure_total{code="shutting_down"} 5.0' in engine.metrics.render()


async def test_a_request_that_cannot_start_fails_and_the_engine_lives(engine):
    steady = engine.submit(request(2, length=50, steps=100))
    valid = request(1)
    unknown = replace(valid, params=replace(valid.params, sampler="nonsense"))
    bad = await result(engine.submit(unknown))
    assert isinstance(bad, Failed) and bad.code == "internal"
    assert isinstance(await result(steady), Done)
    await until_idle(engine)
    assert engine.ready


async def test_numbers_that_are_not_fail_the_request_and_not_the_engine(tiny_folder):
    broken = load_checkpoint(tiny_folder)
    assert isinstance(broken.model, LLaDA)
    embedding = broken.model.get_parameter("model.transformer.wte.weight")
    with torch.no_grad():
        embedding[305] = torch.nan  # only canvases that hold id 305 are hurt
    engine = make_engine(broken)
    engine.start()
    try:
        sick = GenerationRequest.continuing([0, 305], 10, make_params(steps=4, top_p=0.9))
        well = request(1, mixing_ratio=0.0)
        bad, good = await asyncio.gather(result(engine.submit(sick)), result(engine.submit(well)))
        assert isinstance(bad, Failed) and bad.code == "not_finite"
        assert isinstance(good, Done)
    finally:
        engine.stop()


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_step_dispatches_the_same_operations_for_64_requests_as_for_one(tiny, name):
    """No Python loop over requests: the count of tensor operations does not grow with the batch."""

    class Counter(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += 1
            return func(*args, **(kwargs or {}))

    def operations(requests: int) -> int:
        sampler = SAMPLERS[name].make(tiny.info.vocab_size, tiny.info.mask_id, tiny.ends)
        # one chunk of logits either way, and no canvas that fills its bucket to the last place
        params, length = make_params(steps=4, sampler=name, top_p=0.9), 250 // requests
        canvases = [
            ([0] * length, [True] * length, params.changed(seed=i)) for i in range(requests)
        ]
        batch = sampler.begin(CanvasBatch.of(canvases))
        with Counter() as counter:
            take_step(sampler, tiny.model, batch)
        return counter.count

    assert operations(64) <= operations(1)
