"""Steps that are recorded and run again, on a CPU by a recording of their operations."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from sampler import SAMPLERS
from sampler.batch import CanvasBatch
from sampler.cache import MODES
from sampler.graphs import StepGraphs
from sampler.philox import constants
from sampler.proposed import rows_asked
from sampler.step import StepResult, take_steps
from tests.sampler.settings import KINDS, SOME_KINDS, canvas
from tests.sampler.tape import TapeRecorder, memory_of
from tests.sampler.test_cache import MASK as MASK_OF_NETWORK
from tests.sampler.test_cache import mixture, network_of
from tests.sampler.toy import Mixing
from tests.support.caching import begun
from tests.support.effort import THOROUGH, count

V, MASK, ENDS = 96, 95, (1, 2)
CPU = torch.device("cpu")


def batch_of(kind: str, rng: random.Random, sizes):
    sampler = SAMPLERS[KINDS[kind]["sampler"]].make(V, MASK, ENDS)
    canvases = [canvas(kind, rng, V, prompt, length) for prompt, length in sizes]
    opening = None
    if kind == "canvases":  # a third of the positions keep what they begin with
        free = [at for _, editable, _ in canvases for at in editable]
        pinned = np.array([at and rng.random() < 0.3 for at in free])
        opening = pinned, pinned
    return sampler, sampler.begin(CanvasBatch.of(canvases, opening=opening))


def same(one: StepResult, other: StepResult, atol: float = 1e-6) -> bool:
    assert torch.equal(one.batch.tokens, other.batch.tokens)
    assert one.head_rows == other.head_rows and one.run == other.run and one.kept == other.kept
    for name in ("forwards", "failed", "settled"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    for name, column in vars(one.change).items():
        if isinstance(column, torch.Tensor):
            assert torch.allclose(column, getattr(other.change, name), atol=atol), name
    for name in one.batch.own.of_canvases():
        assert torch.equal(getattr(one.batch.own, name), getattr(other.batch.own, name)), name
    return True


@pytest.mark.parametrize("kind", SOME_KINDS)
def test_recorded_steps_are_those_taken_eagerly(kind):
    """Mixtures of other requests, in other layouts, with canvases that end before the others."""
    rng, network, recorder = random.Random(4), Mixing(V), TapeRecorder()
    graphs = StepGraphs(network, CPU, recorder)
    constants(CPU)  # made once
    for trial in range(count(3, 10)):
        lengths = [
            (rng.randrange(12), rng.choice([8, 16, 24, 32])) for _ in range(rng.choice([3, 5]))
        ]
        sampler, batch = batch_of(kind, rng, lengths)
        alone = batch
        for step in range(int(batch.calls.max())):
            (taken,) = graphs.take_steps(network, [(sampler, batch)])
            (eager,) = take_steps(network, [(sampler, alone)])
            assert same(eager, taken), (trial, step)
            batch, alone = taken.batch, eager.batch
            if batch.asked is not None:
                assert (batch.asked == rows_asked(sampler, alone)).all()
    assert graphs.replayed > 3 * graphs.recorded > 0 and graphs.refused == 0
    known = memory_of(network.embedding, *constants(CPU))
    assert all(len(read - known) == 1 for read in recorder.foreign)  # its own buffer


@pytest.mark.parametrize("mode", [*(mode for mode in MODES if mode != "none"), "causal"])
def test_recorded_steps_of_cached_canvases_are_those_taken_eagerly(mode):
    """Samplers in blocks and without, guidance, logits from the position before."""
    block_length = 4 if mode == "causal" else None
    network, fixed = (network_of(block_length, slots=512) for _ in range(2))
    kinds = ["topk guided and told", "threshold entropy"]
    chosen = {} if mode == "causal" else {"cache": mode, "cache_interval": 3}
    for kind in [*kinds, "topk ends", "ancestral guided"] if THOROUGH else kinds:
        for shifted in (False, True) if mode == "causal" else (False,):
            network.shifted = fixed.shifted = shifted
            graphs = StepGraphs(fixed, CPU, TapeRecorder())
            for trial in range(2):
                canvases = mixture([kind], 3, trial, **chosen)
                sampler, batch = begun(network, MASK_OF_NETWORK, canvases)
                alone = batch
                for step in range(int(batch.calls.max())):
                    (taken,) = graphs.take_steps(fixed, [(sampler, batch)])
                    (eager,) = take_steps(network, [(sampler, alone)])
                    assert same(eager, taken, 1e-4), (kind, trial, step)
                    batch, alone = taken.batch, eager.batch
                    assert batch.held is not None and alone.held is not None
                    assert (batch.held == alone.held).all()
            assert graphs.replayed > graphs.recorded > 0 and graphs.refused == 0


class Wrong:
    """Records something else than it was given, or nothing at all."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.asked = error, 0

    def record(self, work):
        self.asked += 1
        if self.error is not None:
            raise self.error
        result = work()

        def again() -> None:
            result.copy_(work())
            result[:8] = MASK  # as if the first canvas had not changed

        return again, result


@pytest.mark.parametrize(
    "recorder, recordings",
    [
        (Wrong(), 2),
        (Wrong(RuntimeError("no graph")), 1),
        (Wrong(torch.OutOfMemoryError("full")), 2),
    ],
    ids=["another result", "an error", "no memory"],
)
def test_a_recording_that_fails_is_left_out_and_the_steps_go_on(recorder, recordings, caplog):
    """Another result, or no room, leaves out a size; after an error nothing is recorded."""
    network, rng = Mixing(V), random.Random(0)
    graphs = StepGraphs(network, CPU, recorder)
    for length in (24, 24, 24, 300, 300, 300):  # two sizes
        sampler, batch = batch_of("gidd", rng, [(0, length)])
        eager = take_steps(network, [(sampler, batch)])[0]
        assert same(eager, graphs.take_steps(network, [(sampler, batch)])[0])
    assert graphs.replayed == 0 and graphs.refused == recorder.asked == recordings
    assert len(caplog.records) == recordings
