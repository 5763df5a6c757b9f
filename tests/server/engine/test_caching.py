"""Requests whose keys and values are kept, through the engine."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest
import pytest_asyncio

from benchmarks.poisoned import BAD, Stumbling, broken, no_memory, stumbling
from models.interface import ModelInfo
from sampler.cache import CAUSAL, DUAL, MODES, NONE
from sampler.params import InvalidParam
from server.engine.caching import Caching
from server.engine.events import Failed
from server.engine.scheduler import Scheduler, Work
from tests.support.effort import count
from tests.support.engine import request, result
from tests.support.running import running, tokens_of

MIXTURE = [
    {"sampler": "topk", "block_length": 8, "cache": "dual"},
    {"sampler": "threshold", "block_length": 8, "cache": "prefix", "confidence_threshold": 0.3},
    {"sampler": "ancestral", "cache": "prompt", "cache_interval": 3},
    {"sampler": "topk", "block_length": 4, "cache": "vicinity", "cache_vicinity": 3},
    {"sampler": "topk", "cache": "none"},
    {"sampler": "topk", "block_length": 8, "cache": "dual", "guidance_scale": 1.5},
    {"sampler": "remdm", "cache": "dual", "cache_interval": 2, "mixing_ratio": 0.0},
]


MOST = count(14, 21)


def mixed(many: int, seed: int = 0) -> list:
    rng = random.Random(seed)
    found = []
    for i in range(many):
        own = {"mixing_ratio": 0.2} | MIXTURE[i % len(MIXTURE)]
        if own["sampler"] == "threshold":
            own["mixing_ratio"] = 0.0
        found.append(request(i, length=rng.choice([8, 16, 24]), steps=rng.randint(6, 12), **own))
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def alone(tiny) -> list[tuple[int, ...]]:
    """The tokens of each request of a mixture, which begins as every shorter one does."""
    async with running(tiny) as engine:
        return [await tokens_of(engine.submit(r)) for r in mixed(MOST)]


async def together(engine, requests) -> list[tuple[int, ...]]:
    return await asyncio.gather(*(tokens_of(engine.submit(r)) for r in requests))


async def test_cached_requests_get_their_own_tokens_in_company(tiny, alone):
    async with running(tiny) as engine:
        assert await together(engine, mixed(MOST)) == alone


async def test_cached_requests_that_are_preempted_get_their_own_tokens(tiny, alone):
    requests = mixed(count(8, 14))
    async with running(tiny, max_running=3, max_positions=64) as engine:
        assert await together(engine, requests) == alone[: len(requests)]


async def test_cached_requests_wait_for_free_positions(tiny, alone):
    async with running(tiny, cache_positions=70) as engine:
        assert await together(engine, mixed(MOST)) == alone


@pytest.mark.parametrize(("stumble", "code"), [(no_memory, "out_of_memory"), (broken, "internal")])
async def test_cached_requests_are_not_changed_by_one_that_fails(tiny, alone, stumble, code):
    requests = mixed(5)
    async with running(stumbling(tiny, stumble)) as engine:
        good = [engine.submit(r) for r in requests[:3]]
        bad = engine.submit(replace(BAD, params=BAD.params.changed(cache="prompt")))
        good += [engine.submit(r) for r in requests[3:]]
        failed = await result(bad)
        assert isinstance(failed, Failed) and failed.code == code
        assert [await tokens_of(s) for s in good] == alone[:5]


async def test_cached_requests_done_in_halves_get_their_own_tokens(tiny, alone):
    class Small(Stumbling):
        def trunk(self, tokens, offsets, rows=None, labels=None, segments=None):
            if len(offsets) - 1 > 2:
                no_memory()
            return self.network.trunk(tokens, offsets, rows, labels, segments)

    async with running(replace(tiny, model=Small(tiny.model, no_memory))) as engine:
        assert await together(engine, mixed(7)) == alone[:7]


async def test_cancelled_requests_free_their_positions(tiny):
    async with running(tiny, cache_positions=100) as engine:
        long = [request(i, length=40, steps=400, cache="prompt") for i in range(8)]
        started = [engine.submit(r) for r in long]
        while not engine.scheduler.slots.used:
            await asyncio.sleep(0.005)
        for subscription in started:
            subscription.cancel()
        assert await tokens_of(engine.submit(mixed(1)[0]))


async def test_metrics_count_positions_run_and_kept(tiny):
    async with running(tiny) as engine:
        await tokens_of(engine.submit(request(0, length=32, steps=8, sampler="topk", cache="dual")))
        value = engine.metrics.registry.get_sample_value
        whole = value("xdlm_positions_kept_total") or 0.0
        chosen = {"sampler": "topk", "block_length": 8, "steps": 16, "mixing_ratio": 0.0}
        await tokens_of(engine.submit(request(0, length=32, cache="dual", **chosen)))
        length = len(request(0, length=32).tokens)
        # four blocks of four steps; the first of each runs everything, the others the block
        assert value("xdlm_positions_kept_total") == whole + 12 * (length - 8)
        assert value("xdlm_cache_positions_used") == 0


def info(**changes) -> ModelInfo:
    from models.cache import CacheShape

    known = {"cache": CacheShape(2, 2, 16), **changes}
    return ModelInfo("toy", "llada", 0, 64, 63, 1, 4096, "float32", **known)


def test_a_cache_that_cannot_be_had_is_refused_naming_the_field():
    asked = request(0, length=32, sampler="topk", cache="dual")
    size = len(asked.tokens)
    cases = {
        "keeps no keys and values": Caching(info(cache=None), 0),
        "blocks of 8": Caching(info(block_length=8), 100),
        "has no cache_positions": Caching(info(), 0),
        f"takes {size} positions for this request; cache_positions is 20": Caching(info(), 20),
    }
    for reason, caching in cases.items():
        with pytest.raises(InvalidParam, match=reason) as refused:
            caching.check(asked)
        assert refused.value.field == "cache"
        caching.check(replace(asked, params=asked.params.changed(cache="none")))
    Caching(info(), size).check(asked)


def test_block_causal_requests_are_cached_where_there_is_room():
    asked = request(0, length=32, sampler="topk")
    assert Caching(info(block_length=8), 100).mode(asked) == CAUSAL
    assert Caching(info(block_length=8), 20).mode(asked) == NONE
    assert Caching(info(), 100).mode(asked) == NONE


def test_work_counts_the_rows_that_are_run():
    chosen = {"sampler": "topk", "block_length": 8, "steps": 32, "mixing_ratio": 0.0}
    plain = request(0, length=32, **chosen)
    length = len(plain.tokens)
    caching = Caching(info(), 1000)
    works = {
        mode: caching.work(request(0, length=32, cache=mode, **chosen)).positions for mode in MODES
    }
    assert works["none"] == length == plain.work.positions
    assert works["dual"] < works["prefix"] < works["prompt"] < works["vicinity"] <= length
    assert works["dual"] == -(-(4 * length + 29 * 8) // 33)
    often = request(0, length=32, cache="dual", cache_interval=1, **chosen)
    assert caching.work(often).positions == length
    assert caching.mode(often) == DUAL


def test_requests_without_slots_pass_one_that_waits_for_them():
    scheduler: Scheduler[str] = Scheduler(99, 99, 9999, 10**9, slots=100)
    scheduler.submit_all([("a", Work(10, 9, 60)), ("b", Work(20, 9, 60)), ("c", Work(30, 9, 10))])
    scheduler.submit("d", Work(40, 9))
    change = scheduler.begin_step()
    # ``c`` would fit, and would let ``b`` wait for ever if others came
    assert dict(zip(change.begin, change.starts, strict=True)) == {"a": 0, "d": -1}
    scheduler.remove("a")
    change = scheduler.begin_step()
    assert dict(zip(change.begin, change.starts, strict=True)) == {"b": 0, "c": 60}
