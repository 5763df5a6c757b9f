"""Requests that break their step, among good ones: the bad ones fail, and no other text changes.

A real engine in this process, on a checkpoint whose network fails at one id: an exception, lack of
memory, or an embedding that is not a number (set after loading, since no file may contain one).

    python -m benchmarks.poisoned --count 200 --save poisoned.jsonl
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import torch

from benchmarks.client import collect
from benchmarks.isolated import Record
from models.checkpoints.load import Checkpoint, find_checkpoint, load_checkpoint
from models.families.llada import LLaDA
from models.interface import Denoiser
from sampler import make_params
from server.config import Settings
from server.engine.engine import Engine
from server.engine.events import Done, Failed, GenerationRequest
from server.engine.factory import engine_of

MARK = 305
"""Id that the network stumbles over."""
BAD = GenerationRequest.continuing([0, MARK], 10, make_params(steps=4, top_p=0.9))


class Stumbling:
    """A network that calls something whenever it reads the mark."""

    def __init__(self, network: Denoiser, stumble: Callable[[], None]) -> None:
        self.network, self.stumble, self.classes = network, stumble, network.classes

    def trunk(self, tokens, offsets, rows=None, labels=None, segments=None):
        """See ``Denoiser``."""
        if bool((tokens == MARK).any()):
            self.stumble()
        return self.network.trunk(tokens, offsets, rows, labels, segments)

    def reserve(self, slots):
        """See ``Denoiser``."""
        self.network.reserve(slots)

    def copy_slots(self, sources, targets):
        """See ``Denoiser``."""
        self.network.copy_slots(sources, targets)

    def head(self, hidden):
        """See ``Denoiser``."""
        return self.network.head(hidden)


def stumbling(checkpoint: Checkpoint, stumble: Callable[[], None]) -> Checkpoint:
    """The checkpoint with such a network."""
    return replace(checkpoint, model=Stumbling(checkpoint.model, stumble))


def sick(name: str) -> Checkpoint:
    """A checkpoint, loaded, whose embedding of the mark is not a number."""
    loaded = load_checkpoint(find_checkpoint(name))
    assert isinstance(loaded.model, LLaDA)
    with torch.no_grad():
        loaded.model.get_parameter("model.transformer.wte.weight")[MARK] = torch.nan
    return loaded


def no_memory() -> None:
    """Raise the error of PyTorch on a full GPU."""
    raise torch.OutOfMemoryError("no memory for the marked one")


def broken() -> None:
    """Raise an error as a bug would."""
    raise ZeroDivisionError("a bug")


async def ended(engine: Engine, request: GenerationRequest) -> Done | Failed:
    """How a request ends."""
    async for event in engine.submit(request):
        if isinstance(event, Done | Failed):
            return event
    raise AssertionError("a subscription ends with Done or Failed")


async def among(checkpoint: Checkpoint, code: str, count: int) -> Record:
    """Bad requests, each among five good ones that were answered alone before."""
    params = make_params(temperature=0.9, top_p=0.95, mixing_ratio=0.2)
    good = [
        GenerationRequest.continuing([0, 300 + i], 8 + 5 * i, params.changed(steps=8 + i, seed=i))
        for i in range(5)
    ]
    engine = engine_of(checkpoint, Settings.model_validate({"checkpoints": ["stories"]}))
    engine.start()
    codes: Counter[str] = Counter()
    changed, began = 0, time.monotonic()
    try:
        alone = [await ended(engine, request) for request in good]
        for _ in range(count):
            *together, bad = await asyncio.gather(*(ended(engine, r) for r in (*good, BAD)))
            codes[bad.code if isinstance(bad, Failed) else "none"] += 1
            changed += sum(
                not (isinstance(a, Done) and isinstance(b, Done) and a.tokens == b.tokens)
                for a, b in zip(alone, together, strict=True)
            )
        return {
            "summary": code,
            "poisoned": count,
            "failed_with": dict(codes),
            "bystanders": 5 * count,
            "changed": changed,
            "ready": engine.ready,
            "seconds": round(time.monotonic() - began, 1),
        }
    finally:
        engine.stop()


async def all_kinds(name: str, count: int) -> AsyncIterator[Record]:
    """Each kind of poison in turn."""
    whole = load_checkpoint(find_checkpoint(name))
    yield await among(stumbling(whole, no_memory), "out_of_memory", count)
    yield await among(stumbling(whole, broken), "internal", count)
    yield await among(sick(name), "not_finite", count)


def main() -> None:
    """Poison and count."""
    parser = argparse.ArgumentParser(description="Requests that break the step, among good ones.")
    parser.add_argument("--checkpoint", default="stories")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--save", help="file name in benchmarks/results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    asyncio.run(collect(all_kinds(args.checkpoint, args.count), args.save))


if __name__ == "__main__":
    main()
