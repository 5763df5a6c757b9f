"""Steps that are recorded once and run again, as CUDA graphs.

Eagerly, a GPU waits for Python: a step of an 8B network launches some 1,700 kernels. Recorded, it
is one copy to the device, one launch, and one copy back.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from sampler.batch import CanvasBatch
from sampler.fixed import FixedStep, Pieces, Sizes
from sampler.fixed_step import fixed_step
from sampler.interface import Denoiser, FixedDenoiser, Sampler, in_fixed_shapes
from sampler.outcome import Outcome
from sampler.step import StepResult, settle, take_steps

log = logging.getLogger(__name__)

MOST_RECORDINGS = 64
USES_BEFORE = 1
"""Steps of a size that are taken eagerly before one is recorded: many sizes come once."""
MOST_SEEN = 4096
"""Sizes whose uses are counted; then the counts begin anew."""
NEVER = -(1 << 62)
"""Uses so far of a size that shall not be recorded."""


class Recorder(Protocol):
    """Records work on a device."""

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Run some work and record it.

        Returns:
            what runs it again on the same memory, and its result, which that writes over.
        """
        ...


class CudaRecorder:
    """CUDA graphs of one device. They share the memory of what they compute on their way: only one
    runs at a time, and its result is read before the next.
    """

    def __init__(self, device: torch.device) -> None:
        """``device``: where the work runs."""
        self._device, self._pool = device, torch.cuda.graph_pool_handle()

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """See ``Recorder``."""
        with torch.cuda.device(self._device):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                work()  # libraries allocate and choose kernels in their first call
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            # other threads, such as those of another engine, go on meanwhile
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                result = work()
        return graph.replay, result


class Buffer:
    """Arrays of fixed shapes end to end in one buffer on a device, written in one copy."""

    def __init__(self, pieces: Pieces, device: torch.device) -> None:
        """Room for arrays like these."""
        size = sum(piece.size for piece in pieces.values())
        self._staged = torch.zeros(size, dtype=torch.int64, pin_memory=device.type == "cuda")
        self._there = torch.zeros(size, dtype=torch.int64, device=device)
        self._host: Pieces = {}
        self.tensors: dict[str, Tensor] = {}
        at = 0
        for name, piece in pieces.items():
            here, there = (t[at : at + piece.size] for t in (self._staged, self._there))
            at += piece.size
            if piece.dtype == np.float64:
                here, there = here.view(torch.float64), there.view(torch.float64)
            self._host[name] = here.numpy().reshape(piece.shape)
            self.tensors[name] = there.view(piece.shape)

    def write(self, pieces: Pieces) -> None:
        """Put arrays there, once what read the last ones has run."""
        for name, piece in pieces.items():
            self._host[name][...] = piece
        self._there.copy_(self._staged, non_blocking=True)

    @property
    def memory(self) -> Tensor:
        """All of it on the device."""
        return self._there


class Recorded:
    """A step of some sizes: the buffer that it reads, its operations, and their recording."""

    def __init__(self, network: FixedDenoiser, step: FixedStep, device: torch.device) -> None:
        """``step``: one of these sizes."""
        self._network, self._sizes = network, step.sizes
        self._buffer = Buffer(step.pieces(), device)
        given = self._buffer.tensors
        self._now, self._following = (
            replace(settings, whole=given[f"{name}.whole"], real=given[f"{name}.real"])
            for name, settings in (("now", step.now), ("next", step.following))
        )
        self._replay: Callable[[], None] | None = None
        self._outcome: Outcome | None = None
        self.unproved = 2
        """Steps that are still taken both ways, to compare what comes out."""

    def write(self, step: FixedStep) -> None:
        """Let it read a step."""
        self._buffer.write(step.pieces())

    def eagerly(self) -> Outcome:
        """Take the step operation by operation."""
        settings = self._now, self._following
        return fixed_step(self._network, self._sizes, *settings, self._buffer.tensors)

    def record(self, recorder: Recorder) -> None:
        """Record the operations of the step."""
        shapes = self.eagerly().shapes
        self._replay, buffer = recorder.record(lambda: self.eagerly().buffer)
        self._outcome = Outcome(buffer, shapes)

    def again(self) -> Outcome:
        """Take the step by the recording, whose outcome the next one writes over."""
        assert self._replay is not None and self._outcome is not None
        self._replay()
        return self._outcome


class StepGraphs:
    """Takes the steps of one network, recorded where they can be.

    Steps of several samplers together, and those that have no fixed shapes (``FixedStep.of``), are
    taken eagerly. A size is recorded when it comes again; its first recorded steps are taken both
    ways, and a recording that gives something else is not used.

    Attributes:
        replayed, recorded, refused: steps taken by a recording; sizes recorded; and those that
            could not be, or gave something else.
    """

    def __init__(self, network: Denoiser, device: torch.device, recorder: Recorder) -> None:
        """Nothing is recorded so far."""
        self._network, self._device, self._recorder = in_fixed_shapes(network), device, recorder
        self._kept: OrderedDict[Sizes, Recorded] = OrderedDict()
        self._seen: Counter[Sizes] = Counter()
        self._off = False
        self.replayed = self.recorded = self.refused = 0

    @torch.inference_mode()
    def take_steps(
        self, network: Denoiser, parts: Sequence[tuple[Sampler, CanvasBatch]]
    ) -> list[StepResult]:
        """See ``sampler.step.take_steps``."""
        if self._network is not None and not self._off and len(parts) == 1:
            sampler, batch = parts[0]
            step = FixedStep.of(self._network, sampler, batch)
            if step is not None and (outcome := self._outcome_of(step)) is not None:
                return [_settled(sampler, batch, step, outcome)]
        return take_steps(network, parts)

    def _outcome_of(self, step: FixedStep) -> _Fetched | None:
        """The outcome of a step by a recording; None where there is none."""
        sizes = step.sizes
        recorded = self._kept.get(sizes)
        if recorded is None:
            if len(self._seen) >= MOST_SEEN:
                self._seen.clear()
            self._seen[sizes] += 1
            if self._seen[sizes] <= USES_BEFORE or (recorded := self._record(step)) is None:
                return None
        else:
            self._kept.move_to_end(sizes)
            recorded.write(step)
        outcome = recorded.again()
        found = _Fetched.of(step, outcome)
        if recorded.unproved:
            recorded.unproved -= 1
            eager = _Fetched.of(step, recorded.eagerly())
            if not found.equals(eager):
                log.warning("a recorded step gave something else; it is taken eagerly: %s", sizes)
                self._refuse(sizes)
                return eager
        self.replayed += 1
        return found

    def _record(self, step: FixedStep) -> Recorded | None:
        """Record a step of new sizes; None where that fails."""
        assert self._network is not None
        try:
            recorded = Recorded(self._network, step, self._device)
            recorded.write(step)
            recorded.record(self._recorder)
        except Exception as error:
            # out of memory, this size is left out; after another error, nothing is recorded again
            self._off = not isinstance(error, torch.OutOfMemoryError)
            log.warning("a step could not be recorded: %s", error)
            self._refuse(step.sizes)
            return None
        self.recorded += 1
        self._kept[step.sizes] = recorded
        if len(self._kept) > MOST_RECORDINGS:
            self._kept.popitem(last=False)
        return recorded

    def _refuse(self, sizes: Sizes) -> None:
        self.refused += 1
        self._kept.pop(sizes, None)
        self._seen[sizes] = NEVER


def _settled(
    sampler: Sampler, batch: CanvasBatch, step: FixedStep, outcome: _Fetched
) -> StepResult:
    moved = replace(batch, tokens=outcome.tokens, step=batch.step + 1, ahead=None)
    if step.reading is not None:
        moved = step.reading.taken(moved)
    run = len(step.passed.source)
    return settle(sampler, batch, moved, step.asks, step.counts, outcome.found, run)


@dataclass(frozen=True)
class _Fetched:
    """The outcome of a step, on the host.

    Attributes:
        tokens: on the device, its own copy.
        found: all of it by name, on the host.
    """

    tokens: Tensor
    found: dict[str, np.ndarray]

    @classmethod
    def of(cls, step: FixedStep, outcome: Outcome) -> _Fetched:
        assert next(iter(outcome.shapes[0])) == "tokens"
        tokens = outcome.buffer[: step.host.positions].clone()
        return cls(tokens, step.cut(outcome.fetch()[0]))

    def equals(self, other: _Fetched) -> bool:
        """Whether ids and counts are the same, and probabilities but for their rounding."""
        return all(
            np.allclose(array, other.found[name], rtol=1e-3, atol=1e-6, equal_nan=True)
            if array.dtype == np.float64
            else np.array_equal(array, other.found[name])
            for name, array in self.found.items()
        )
