"""Section 2: a device's tokens against a CPU's, each variant's against ``eager``, and those of a
busy engine against those of a request that runs alone.
"""

from __future__ import annotations

import asyncio
from typing import Any

from benchmarks.device.networks import Bench
from benchmarks.device.variants import ALIKE, VARIANTS, Canvases
from models.checkpoints.load import Checkpoint, find_checkpoint, load_checkpoint
from sampler import SAMPLERS, make_params
from sampler.interface import Sampler
from sampler.params import SamplingParams
from server.config import Settings
from server.engine.events import Done, GenerationRequest
from server.engine.factory import engine_of

SETTINGS: list[dict[str, Any]] = [
    {"sampler": "ancestral", "top_p": 0.9},
    {"sampler": "ancestral", "noise_removal": "greedy", "guidance_scale": 1.5},
    {"sampler": "topk", "block_length": 16, "refine_scope": "block"},
    {"sampler": "topk", "temperature": 0.0, "logits_eos_inf": True},
    {"sampler": "threshold", "block_length": 16, "confidence_threshold": 0.7},
    {"sampler": "gidd", "p_uniform": 0.2},
    {"sampler": "remdm", "remdm_schedule": "loop"},
]
LEAST_SHARE = 0.98
"""Share of tokens that a GPU must have in common with a CPU in fp32: the random numbers are the
same bits, logits differ in the last ones, which tips a draw now and then."""


def tokens(bench: Bench) -> None:
    """``stories`` with all samplers, ``digits`` with classes and guidance, and the engine."""
    here = load_checkpoint(find_checkpoint("stories"), "cpu", "float32")
    there = load_checkpoint(find_checkpoint("stories"), bench.device, "float32")
    for chosen in SETTINGS:
        if not bench.report.has_time:
            bench.report.skip("stories")
            return
        given = {"steps": 4 if bench.small else 8, "mixing_ratio": 0.0, **chosen}
        count, length = (4, 16) if bench.small else (32, 48)
        canvases = [
            ([0, 300 + i] + [0] * length, [False] * 2 + [True] * length, params)
            for i, params in enumerate(make_params(**given, seed=i) for i in range(count))
        ]
        _compare(bench, _name("stories", chosen), (here, there), chosen["sampler"], canvases)
    digits = find_checkpoint("digits")
    pair = load_checkpoint(digits, "cpu"), load_checkpoint(digits, bench.device, "float32")
    params = make_params(steps=2 if bench.small else 8, mixing_ratio=0.1, guidance_scale=2.0)
    canvases = [
        ([0] * 144, [True] * 144, params.changed(class_label=i, seed=i))
        for i in range(2 if bench.small else 10)
    ]
    _compare(bench, "digits, guidance", pair, "ancestral", canvases)
    asyncio.run(_company(bench, there))


def _name(checkpoint: str, chosen: dict[str, Any]) -> str:
    return ", ".join([checkpoint, *(str(v) for v in list(chosen.values())[:2])])


def _sampler(loaded: Checkpoint, name: str) -> Sampler:
    return SAMPLERS[name].make(loaded.info.vocab_size, loaded.info.mask_id, loaded.ends)


def _compare(
    bench: Bench, case: str, pair: tuple[Checkpoint, Checkpoint], name: str, canvases: Canvases
) -> None:
    found = {}
    for variant, decode in VARIANTS.items():
        found[variant], _ = decode(pair[1].model, _sampler(pair[1], name), canvases, bench.device)
        if variant == "eager":
            theirs, _ = decode(pair[0].model, _sampler(pair[0], name), canvases, "cpu")
            share = float((found[variant].cpu() == theirs).double().mean())
            least = 1.0 if bench.device == "cpu" else LEAST_SHARE
            note = f"{100 * share:.3f} % of the CPU's tokens"
        else:
            share = float((found[variant] == found["eager"]).double().mean())
            least = LEAST_SHARE if variant in ALIKE else 0.0
            note = f"{100 * share:.3f} % of the tokens of eager"
        bench.report.verify(case, variant, share >= least, note)


async def _company(bench: Bench, loaded: Checkpoint) -> None:
    """Requests of all samplers in an engine with little room, so that they arrive, leave and are
    preempted, against each of them alone.
    """
    count = 7 if bench.small else 21
    length = 10 if bench.small else 20
    chosen: list[SamplingParams] = [
        make_params(
            **{
                "steps": 4 if bench.small else 8,
                "mixing_ratio": 0.0,
                **SETTINGS[i % len(SETTINGS)],
            },
            seed=i,
        )
        for i in range(count)
    ]
    requests = [
        GenerationRequest.continuing([0, 300 + i], length + 5 * (i % 5), params, wants_steps=True)
        for i, params in enumerate(chosen)
    ]
    settings = Settings.model_validate({"port": 0, "max_positions": 4 * length})
    engine = engine_of(loaded, settings)
    engine.start()

    async def outcome(request: GenerationRequest) -> tuple[int, ...]:
        async for event in engine.submit(request):
            if isinstance(event, Done):
                return event.tokens
        return ()

    try:
        together = await asyncio.gather(*(outcome(r) for r in requests))
        alone = [await outcome(r) for r in requests]
    finally:
        engine.stop()
    pairs = [
        x == y for a, b in zip(together, alone, strict=True) for x, y in zip(a, b, strict=True)
    ]
    share = sum(pairs) / max(1, len(pairs))
    least = 1.0 if bench.device == "cpu" else LEAST_SHARE
    whole = bool(pairs) and all(together)
    note = f"{100 * share:.3f} % of the tokens that each request gets alone"
    bench.report.verify("engine, mixed samplers", "eager", whole and share >= least, note)
