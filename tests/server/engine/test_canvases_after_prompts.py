"""DiffusionGemma through the engine: prompts encoded once, several canvases for each request."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest
import torch

from benchmarks.poisoned import Stumbling, broken
from models.checkpoints.load import load_checkpoint
from models.checkpoints.random_init import parse_shape, write_random
from sampler.params import InvalidParam
from server.engine.events import Done, Failed, GenerationRequest, Step
from server.engine.preparation import prepared
from server.engine.request_params import ModelKind, sampling_params
from tests.support.engine import result
from tests.support.running import running, tokens_of
from tests.support.serving import make_engine

SHAPE = "tiny,text_config.num_hidden_layers=2"
LAYERS = {"layer_types": ["sliding_attention", "full_attention"]}


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gemma") / "tiny"
    shape = parse_shape(SHAPE, "diffusion_gemma")
    shape["text_config"] |= LAYERS
    write_random(folder, shape, family="diffusion_gemma", dtype=torch.float32)
    return load_checkpoint(folder)


def request(engine, prompt: list[int], length: int, watched=False, **values) -> GenerationRequest:
    values = {"max_denoising_steps": 4, "entropy_bound": 8.0, **values}
    info = engine.checkpoint.info
    params = sampling_params(engine.checkpoint.defaults, values, ModelKind.of(info))
    made = GenerationRequest.continuing(prompt, length, params, watched, through_ends=True)
    return prepared(replace(made, lossless=watched), engine.caching)


def prompts(count: int) -> list[list[int]]:
    rng = random.Random(5)
    shared = [rng.randrange(300) for _ in range(40)]
    own = [[rng.randrange(300) for _ in range(rng.randrange(1, 30))] for _ in range(count)]
    return [[*shared, *more] if i % 2 else more for i, more in enumerate(own)]


def value(engine, name: str) -> float:
    return engine.metrics.registry.get_sample_value(name) or 0.0


async def test_the_same_seed_gives_the_same_tokens_alone_in_company_and_watched(gemma):
    sizes = [(p, 10 + 7 * i) for i, p in enumerate(prompts(6))]
    async with running(gemma) as engine:
        alone = [
            await tokens_of(engine.submit(request(engine, p, n, seed=i)))
            for i, (p, n) in enumerate(sizes)
        ]
    async with running(gemma) as engine:
        several = [request(engine, p, n, seed=i) for i, (p, n) in enumerate(sizes)]
        assert await asyncio.gather(*map(tokens_of, engine.submit_all(several))) == alone
        assert value(engine, "xdlm_prompt_positions_reused_total") >= 2 * 32
        watched = [request(engine, p, n, True, seed=i) for i, (p, n) in enumerate(sizes)]
        assert await asyncio.gather(*map(tokens_of, engine.submit_all(watched))) == alone
    for (prompt, length), tokens in zip(sizes, alone, strict=True):
        assert list(tokens[: len(prompt)]) == prompt and len(tokens) == len(prompt) + length


async def test_prompts_and_canvases_are_encoded_once(gemma):
    async with running(gemma) as engine:
        made = request(engine, list(range(30)), 40, stop_entropy=0.0)
        assert made.spare == 8 and made.params.steps == 12
        done = await result(engine.submit(made))
        assert isinstance(done, Done) and done.tally.forwards == 12
        run = value(engine, "xdlm_positions_run_total")
        assert run == 12 * 16 + 30 + 2 * 16  # each step a canvas; the last one is not encoded


async def test_events_follow_the_canvases_and_text_settles_one_by_one(gemma):
    async with running(gemma) as engine:
        prompt = [7, 8, 9]
        steps, tokens = [], ()
        async for event in engine.submit(request(engine, prompt, 40, True, seed=2)):
            if isinstance(event, Step):
                steps.append(event)
            else:
                assert isinstance(event, Done)
                tokens = event.tokens
        canvas: list[int] = []
        for step in steps:
            canvas = step.applied_to(canvas)
            assert step.settled in (0, 3, 19, 35, 43)
            assert tuple(canvas[: step.settled]) == tokens[: step.settled]
        assert tuple(canvas) == tokens
        ops = {change.op for step in steps for change in step.changes}
        assert ops == {"unmask", "refine", "remask"}
        assert [s.block for s in steps] == sorted(s.block for s in steps)


async def test_a_failing_request_changes_no_other_text(gemma):
    """The step is repeated in halves: what it remembered of expected tokens is not read twice."""

    class Forgetful(Stumbling):
        """Fails where a prompt of 77 ids is in a step, after everything was remembered."""

        def trunk(self, tokens, offsets, rows=None, labels=None, segments=None):
            self.fails = segments is not None and bool((segments[4] == 77).any())
            return self.network.trunk(tokens, offsets, rows, labels, segments)

        def expected(self, p):
            return gemma.model.expected(p)

        def remember(self, slots, phases, expected):
            gemma.model.remember(slots, phases, expected)
            if self.fails:
                broken()

    good = prompts(4)
    async with running(gemma) as engine:
        alone = [
            await tokens_of(engine.submit(request(engine, p, 30, seed=i)))
            for i, p in enumerate(good)
        ]
    async with running(replace(gemma, model=Forgetful(gemma.model, broken))) as engine:
        several = [request(engine, p, 30, True, seed=i) for i, p in enumerate(good)]
        first, *others = engine.submit_all(several)
        for _ in range(3):  # until they are in the middle of a canvas
            await anext(first)
        bad = engine.submit(request(engine, [5] * 77, 30, seed=9))
        *events, last = await asyncio.gather(*map(result, [first, *others, bad]))
        assert isinstance(last, Failed) and last.code == "internal"
        assert [e.tokens for e in events if isinstance(e, Done)] == alone


async def test_requests_that_cannot_be_are_refused_by_name(gemma):
    engine = make_engine(gemma, cache_positions=100)
    for field, values in {
        "block_length": {"block_length": 8},
        "cache": {"cache": "dual"},
        "steps": {"steps": 1},
        "sampler": {"sampler": "ancestral"},
        "guidance_scale": {"guidance_scale": 2.0},
    }.items():
        with pytest.raises(InvalidParam) as refused:
            request(engine, [1], 20, **values)
        assert refused.value.field == field
    with pytest.raises(InvalidParam, match="take 112 positions; cache_positions is 100"):
        request(engine, [1] * 16, 96)
    params = sampling_params(gemma.defaults, {}, ModelKind.of(gemma.info))
    with pytest.raises(InvalidParam, match="suffix"):
        prepared(GenerationRequest.continuing([1], 5, params, suffix=[2]), engine.caching)
    with pytest.raises(InvalidParam, match="that encodes its prompt"):
        sampling_params({}, {"sampler": "entropy_bound"})
