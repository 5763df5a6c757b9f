"""Prompts that begin alike are computed once, and texts do not depend on it."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest
import pytest_asyncio

from benchmarks.poisoned import Stumbling, no_memory
from models.checkpoints.load import load_checkpoint
from server.engine.events import GenerationRequest
from server.engine.prefixes import Prefixes, shared
from server.engine.preparation import prepared
from server.engine.request_params import sampling_params
from server.engine.slots import Slots
from tests.conftest import load_golden
from tests.support.effort import count
from tests.support.published import write_folder
from tests.support.running import running, tokens_of

BLOCK = 8
MANY = count(10, 16)
SHOTS = [random.Random(1).randrange(80) for _ in range(40)]


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blocks") / "llada2"
    write_folder(folder, load_golden("families/llada2_tiny"), block_length=BLOCK)
    return load_checkpoint(folder)


def request(engine, ending: list[int], seed: int = 0, **values) -> GenerationRequest:
    values = {"seed": seed, "temperature": 0.9, **values}
    params = sampling_params(engine.checkpoint.defaults, values)
    made = GenerationRequest.continuing([*SHOTS, *ending], 12, params, through_ends=True)
    return prepared(made, engine.caching)


def value(engine, name: str) -> float:
    return engine.metrics.registry.get_sample_value(name) or 0.0


def endings(count: int) -> list[list[int]]:
    rng = random.Random(2)
    return [[rng.randrange(80) for _ in range(rng.randrange(10))] for _ in range(count)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def alone(blocks) -> list[tuple[int, ...]]:
    """The tokens of the requests of ``MANY`` endings, one after the other; nothing is kept."""
    async with running(blocks, cache_positions=1) as engine:
        return [
            await tokens_of(engine.submit(request(engine, e, i)))
            for i, e in enumerate(endings(MANY))
        ]


async def test_a_prompt_shared_by_many_requests_is_computed_once(blocks, alone):
    async with running(blocks) as engine:
        subscriptions = engine.submit_all(
            [request(engine, e, i) for i, e in enumerate(endings(MANY))]
        )
        assert await asyncio.gather(*map(tokens_of, subscriptions)) == alone
        assert value(engine, "xdlm_prompt_positions_reused_total") >= (MANY - 1) * len(SHOTS)
        before = value(engine, "xdlm_positions_run_total")
        again = engine.submit(request(engine, endings(MANY)[3], 3))  # after the others
        assert await tokens_of(again) == alone[3]
        assert value(engine, "xdlm_prompt_positions_reused_total") >= MANY * len(SHOTS)
        assert value(engine, "xdlm_positions_run_total") - before < 13 * 3 * BLOCK


async def test_guided_requests_get_their_own_texts_beside_others_of_the_same_prompt(blocks):
    async with running(blocks) as engine:
        requests = [
            request(engine, e, i, guidance_scale=1.0 + i % 2) for i, e in enumerate(endings(4))
        ]
        alone = [await tokens_of(engine.submit(r)) for r in requests]
    async with running(blocks) as engine:
        assert await asyncio.gather(*map(tokens_of, engine.submit_all(requests))) == alone
    async with running(blocks, cache_positions=1) as engine:
        assert [await tokens_of(engine.submit(r)) for r in requests] == alone


async def test_prompts_that_cannot_be_copied_are_computed(blocks):
    class NoCopies(Stumbling):
        def copy_slots(self, sources, targets):
            no_memory()

    async with running(blocks) as engine:
        requests = [request(engine, e, i) for i, e in enumerate(endings(4))]
        expected = await asyncio.gather(*map(tokens_of, engine.submit_all(requests)))
    async with running(replace(blocks, model=NoCopies(blocks.model, no_memory))) as engine:
        assert await asyncio.gather(*map(tokens_of, engine.submit_all(requests))) == expected
        assert value(engine, "xdlm_prompt_positions_reused_total") == 0


async def test_requests_that_wait_for_a_prompt_go_on_when_its_request_is_cancelled(blocks):
    async with running(blocks) as engine:
        alone = await tokens_of(engine.submit(request(engine, [1], 5)))
    async with running(blocks) as engine:
        for _ in range(5):
            first, *others = engine.submit_all([request(engine, [1], 5) for _ in range(4)])
            await asyncio.sleep(0.002)
            first.cancel()
            assert await asyncio.gather(*map(tokens_of, others)) == [alone] * 3


async def test_a_cache_that_is_full_evicts_prompts_and_serves_all(blocks, alone):
    async with running(blocks, cache_positions=150) as engine:
        for _ in range(2):
            subscriptions = engine.submit_all(
                [request(engine, e, i) for i, e in enumerate(endings(9))]
            )
            assert await asyncio.gather(*map(tokens_of, subscriptions)) == alone[:9]


def taken(slots: Slots, length: int) -> int:
    start = slots.take(length)
    assert start is not None
    return start


def test_prompts_are_found_by_their_ids_as_far_as_they_are_known():
    slots = Slots(40)
    prefixes = Prefixes(4, slots)
    one, two = prefixes.keys_of(range(11)), prefixes.keys_of([*range(6), 9, 9, 9, 9, 9, 9])
    assert (len(one), len(two), shared(one, two)) == (2, 3, 1)
    assert prefixes.known(one) == 0 and not len(prefixes.slots_of(one))
    start = taken(slots, 12)
    assert start == 0
    prefixes.add(one, start)
    assert prefixes.known(one) == 2 and prefixes.known(two) == 1
    assert prefixes.slots_of(one).tolist() == list(range(8))
    slots.give(start)
    assert slots.used == 0 and prefixes.known(one) == 2
    assert slots.take(32) == 8  # behind what has been left
    assert prefixes.known(one) == 2
    assert slots.take(1) == 0  # nothing else is free
    assert prefixes.known(one) == 0


def test_prompts_used_longest_ago_are_evicted_first():
    slots = Slots(12)
    prefixes = Prefixes(4, slots)
    keys = [prefixes.keys_of([i] * 4) for i in range(3)]
    starts = [taken(slots, 4) for _ in keys]
    for key, start in zip(keys, starts, strict=True):
        prefixes.add(key, start)
        slots.give(start)
    prefixes.slots_of(keys[0])
    assert slots.take(4) == starts[1]
    assert [prefixes.known(key) for key in keys] == [1, 0, 1]
    gone = taken(slots, 4)
    assert gone == starts[2] and slots.keep(gone, 4)
    slots.give(gone)
    assert not slots.keep(gone, 4)
