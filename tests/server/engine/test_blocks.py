"""Checkpoints that generate in blocks, through the engine: the texts of the official code."""

from __future__ import annotations

import asyncio

import pytest

from models.checkpoints.load import load_checkpoint
from sampler.params import InvalidParam
from server.engine.events import Done, GenerationRequest
from server.engine.preparation import prepared
from server.engine.request_params import sampling_params
from tests.conftest import load_golden
from tests.support.engine import result, until_idle
from tests.support.published import write_folder
from tests.support.serving import make_engine

RUNS = {
    "sdar_traj_greedy": ("sdar_tiny", "block_size"),
    "sdar_moe_traj": ("sdar_moe_tiny", "block_size"),
    "llada2_traj": ("llada2_tiny", "block_length"),
    "llada21_traj": ("llada2_tiny", "block_length"),
}


def loaded(folder, name: str, length: int):
    weights, field = RUNS[name]
    return load_checkpoint(
        write_folder(folder, load_golden(f"families/{weights}"), **{field: length})
    )


def chosen(meta: dict) -> dict:
    """The parameters of a greedy official run; empty for one of another rule."""
    greedy = meta.get("temperature", 0) == 0 or meta.get("top_k") == 1
    if not greedy or meta.get("strategy") in ("sequential", "entropy_bounded"):
        return {}
    if meta.get("eos_early_stop") and meta["mode"] == "unmask":
        return {}  # it ends in the middle of a block
    if meta.get("num_to_transfer", 1) > 1 or meta.get("steps", 8) != 8:
        return {}
    found = {"temperature": 0.0, "confidence_threshold": meta.get("threshold") or 1.0}
    if "edit_threshold" in meta:
        found |= {
            "editing_threshold": meta["edit_threshold"],
            "post_steps": meta["max_post_steps"],
        }
    return found


@pytest.mark.parametrize(
    ("name", "length"),
    [("sdar_traj_greedy", 4), ("sdar_moe_traj", 4), ("llada2_traj", 8), ("llada21_traj", 8)],
)
@pytest.mark.parametrize("cache_positions", [1, 8192], ids=["not kept", "kept"])
async def test_official_texts_side_by_side(tmp_path, name, length, cache_positions):
    file = load_golden(f"families/{name}")
    cases = {
        case: meta
        for case, meta in file.meta["cases"].items()
        if meta["block_length"] == length and chosen(meta)
    }
    assert len(cases) >= 3
    engine = make_engine(loaded(tmp_path / "one", name, length), cache_positions=cache_positions)
    engine.start()
    try:
        requests = []
        for case, meta in cases.items():
            params = sampling_params(engine.checkpoint.defaults, chosen(meta))
            requests.append(
                prepared(
                    GenerationRequest.continuing(
                        file.tensors[f"{case}.prompt"].tolist(),
                        meta["gen_length"],
                        params,
                        through_ends=True,
                    ),
                    engine.caching,
                )
            )
        done = await asyncio.gather(*(result(engine.submit(r)) for r in requests))
        for case, request, event in zip(cases, requests, done, strict=True):
            assert isinstance(event, Done)
            assert len(event.tokens) == len(request.tokens)
            rows = zip(
                file.tensors[f"{case}.step_block"].tolist(),
                file.tensors[f"{case}.step_after"].tolist(),
                strict=True,
            )
            blocks = dict(rows)  # the last state of each
            for block, after in blocks.items():
                own = list(event.tokens[block * length : (block + 1) * length])
                assert own == after[: len(own)], case
            assert event.tally.unmasked <= event.tally.positions
        await until_idle(engine)
    finally:
        engine.stop()


async def test_requests_are_made_to_fit_the_blocks(tmp_path):
    engine = make_engine(loaded(tmp_path / "one", "llada2_traj", 8))

    def made(prompt: int, length: int, **values) -> GenerationRequest:
        params = sampling_params(engine.checkpoint.defaults, values)
        request = GenerationRequest.continuing([5] * prompt, length, params)
        return prepared(request, engine.caching)

    assert made(3, 10).spare == 3 and made(3, 13).spare == 0
    assert made(3, 10).params.steps == 16 and made(3, 10, steps=9).params.steps == 9
    most = engine.checkpoint.info.max_length
    assert made(3, most - 3).spare == 0
    for field, value in (
        ("block_length", 4),
        ("sampler", "ancestral"),
        ("cache", "dual"),
        ("steps", 1),
    ):
        with pytest.raises(InvalidParam) as refused:
            made(3, 10, **{field: value})
        assert refused.value.field == field
