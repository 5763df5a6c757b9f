"""Sections 9 and 10: single steps by the profiler, and arrivals and departures at each step."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext

import torch

from benchmarks.device.decoding import K
from benchmarks.device.measures import profiled, seconds
from benchmarks.device.networks import Bench
from benchmarks.device.variants import copy_of, graphs_of
from fusion.choice import operations_of_pytorch
from models.checkpoints.load import Checkpoint
from models.families.llada import LLaDA
from models.interface import Denoiser, ModelInfo
from sampler import SAMPLERS, make_params
from sampler.batch import CanvasBatch
from sampler.step import TakeSteps, take_steps
from server.engine.batches import Batches
from server.engine.events import GenerationRequest
from server.engine.stream import Subscription

WARM_STEPS = 8


def profiles(bench: Bench) -> None:
    """Kernels, busy milliseconds and waits of a step: LLaDA with 1 and 8 canvases, and the DiT."""
    model: Denoiser = bench.llada()
    shape = bench.llada_shape
    for batch in (1, 8):
        length = 48 if bench.small else 384
        case = f"{bench.llada_name} {batch}"
        profile(
            bench, case, model, "topk", shape["vocab_size"], shape["mask_token_id"], batch, length
        )
    del model
    bench.free()
    vocab = bench.dit_shape["vocab_size"]
    batch, length = (2, 16) if bench.small else (32, 1024)
    profile(bench, f"dit {batch}", bench.dit(), "ancestral", vocab, vocab - 1, batch, length)


def profile(
    bench: Bench,
    case: str,
    model: Denoiser,
    name: str,
    vocab: int,
    mask: int,
    batch_size: int,
    length: int,
) -> None:
    """A step in the middle of a run of 32."""
    if not bench.report.has_time:
        bench.report.skip(case)
        return
    sampler = SAMPLERS[name].make(vocab, mask, ())
    params = make_params(steps=32, sampler=name, mixing_ratio=K, temperature=0.0)
    canvases = [([0] * length, [True] * length, params)] * batch_size
    joined = copy_of(model, "joined")
    ways: dict[str, tuple[Denoiser, TakeSteps]] = {
        "eager": (model, take_steps),
        "graph": (model, graphs_of(model, bench.device).take_steps),
        "fused": (joined, graphs_of(joined, bench.device).take_steps),
    }
    for variant, (network, take) in ways.items():
        apart = nullcontext() if variant == "fused" else operations_of_pytorch()
        batch = sampler.begin(CanvasBatch.of(canvases, bench.device))

        def step(network: Denoiser = network, take: TakeSteps = take) -> None:
            nonlocal batch
            batch = take(network, [(sampler, batch)])[0].batch

        with apart:
            for _ in range(WARM_STEPS):
                step()
            taken = [seconds(step, bench.device) for _ in range(bench.runs(8))]
            found = profiled(step, bench.device, 1 if bench.small else 4)
        note = f"{found.syncs:.0f} waits, {found.wall_ms:.2f} ms under the profiler; {found.top}"
        bench.report.add(
            case,
            variant,
            seconds=taken,
            kernels=found.kernels,
            busy_ms=found.busy_ms,
            note=note.removesuffix("; "),
        )


def churn(bench: Bench) -> None:
    """32 canvases that begin and end together, against one arrival and one departure a step."""
    count, length = 32, 32
    model, case = bench.llada(), f"{bench.llada_name} {count} canvases"
    steps = count  # one begins at each step and lasts as many, so one ends at each step
    together = Runner(bench, model, length, steps)
    one_by_one = Runner(bench, model, length, steps)

    def lifetime() -> None:
        together.begin(count)
        for _ in range(steps):
            together.step()

    def arrivals() -> None:
        one_by_one.begin(1)
        one_by_one.step()

    lifetime()
    for _ in range(count):
        arrivals()
    whole, churned = [], []
    for _ in range(bench.runs(3)):
        if whole and not bench.report.has_time:
            break
        whole.append(seconds(lifetime, bench.device) / steps)
        churned.append(seconds(lambda: [arrivals() for _ in range(steps)], bench.device) / steps)
    found = profiled(arrivals, bench.device, 2)
    add: Callable[..., None] = bench.report.add
    add(case, "together", seconds=whole, note="a step, its share of begin and end included")
    ratio = sum(churned) / sum(whole)
    note = f"{ratio:.3f}x of together; {found.syncs:.0f} waits"
    add(case, "churn", seconds=churned, kernels=found.kernels, busy_ms=found.busy_ms, note=note)
    alive = one_by_one.alive
    bench.report.verify(case, "churn", alive == count, f"{alive} canvases of {count} run")


class Runner:
    """The engine's batches of a random LLaDA, without a thread and an event loop."""

    def __init__(self, bench: Bench, model: LLaDA, length: int, steps: int) -> None:
        vocab, mask = model.config.vocab_size, model.config.mask_token_id
        info = ModelInfo("random", "llada", 0, vocab, mask, None, 4096, str(bench.dtype))
        checkpoint = Checkpoint(model, None, info, {}, torch.device(bench.device))
        self.batches = Batches(checkpoint, graphs=graphs_of(model, bench.device))
        self.steps, self.length, self.begun, self.alive = steps, length, 0, 0

    def begin(self, count: int) -> None:
        """Let some requests begin."""
        owners = [self._request(self.begun + i) for i in range(count)]
        self.begun += count
        failed = self.batches.begin(owners)
        assert not failed, failed

    def _request(self, seed: int) -> Subscription:
        params = make_params(steps=self.steps, sampler="topk", mixing_ratio=K, seed=seed)
        prompt = list(range(3, 3 + self.length))
        request = GenerationRequest.continuing(prompt, self.length, params, through_ends=True)
        now = time.monotonic()
        subscription = Subscription(request, lambda *_: None, lambda _: None, now)
        subscription.admitted = now
        return subscription

    def step(self) -> None:
        """Take a step of all; those that are complete leave."""
        self.alive = self.batches.step(time.monotonic(), 1e-3).requests
