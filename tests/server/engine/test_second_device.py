"""The engine's canvases on a device whose every copy and question is counted."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from models.checkpoints.load import Checkpoint
from models.interface import ModelInfo
from sampler.graphs import StepGraphs
from sampler.params import SamplerParams
from server.engine.batches import Batches
from server.engine.events import Done, Event, Failed, GenerationRequest, Step
from server.engine.stream import Subscription
from tests.sampler.settings import KINDS, SOME_KINDS, canvas
from tests.sampler.tape import TapeRecorder
from tests.sampler.toy import Mixing
from tests.support.effort import THOROUGH, some
from tests.support.second_device import DEVICE, Remote, SecondDevice

V, MASK = 96, 95
PACE = 1e-3
ALL = list(KINDS)
DEVICES = {"cpu": torch.device("cpu"), "second": DEVICE}


class Repeating:
    """Takes a recorded step anew, operation by operation, where the recording would run."""

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        result = work()

        def again() -> None:
            result.copy_(work())

        return again, result


RECORDERS = {"cpu": TapeRecorder, "second": Repeating}


class Stumbling(Mixing):
    """A network that fails where more canvases than ``most`` are read at once."""

    most = 10**6

    def trunk(self, tokens, offsets, rows, labels=None):
        if len(offsets) - 1 > self.most:
            raise torch.OutOfMemoryError("no memory for so many")
        return super().trunk(tokens, offsets, rows, labels)


def least(own: SamplerParams) -> dict[str, float]:
    """Values of the rules of ``threshold`` that let little through."""
    values = {"confidence_threshold": 1.0, "entropy_bound": 0.0, "confidence_factor": 0.0}
    return {n: v for n, v in values.items() if getattr(own, n, None) is not None}


class Bench:
    """Canvases without a thread and an event loop."""

    def __init__(self, device: torch.device, recorder: Any = None) -> None:
        """``recorder``: of steps; each is taken eagerly where None."""
        self.network: Any = Stumbling(V)
        if device == DEVICE:
            self.network.embedding = self.network.embedding.to(device)
        info = ModelInfo("toy", "llada", 0, V, MASK, 1, 4096, "float32")
        self.graphs = None if recorder is None else StepGraphs(self.network, device, recorder)
        checkpoint = Checkpoint(self.network, None, info, {}, device)
        self.batches = Batches(checkpoint, graphs=self.graphs)
        self.owners: list[Subscription] = []
        self.begun = 0

    def begin(
        self, *kinds: str, steps: bool = False, slow: bool = False, **chosen
    ) -> list[Subscription]:
        """Requests of some kinds begin; each has a prompt and a length of its own. Slow ones write
        no more at a step than they have to.
        """
        begun = []
        for kind in kinds:
            i = self.begun
            self.begun += 1
            length = 16 + 8 * (i % 3)
            tokens, editable, params = canvas(kind, random.Random(i), V, 1 + i % 5, length)
            params = params.changed(**least(params.own)) if slow else params
            request = GenerationRequest(tokens, editable, params, steps, lossless=True)
            request = replace(request, **{"through_ends": True, **chosen})
            begun.append(Subscription(request, lambda *_: None, lambda _: None, 0.0))
            self.owners.append(begun[-1])
        self.push(self.batches.begin(begun))
        return begun

    def push(self, events) -> None:
        for owner, event in events:
            owner.push(event)

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            if not self.batches:
                break
            stepped = self.batches.step(0.0, PACE)
            for record in stepped.records:
                record.deliver()
            self.push(stepped.ended)

    def events(self) -> list[list[Event]]:
        """All events of each request; times are left out."""
        return [[self.timeless(e) for e in owner._pending] for owner in self.owners]

    @staticmethod
    def timeless(event: Event) -> Event:
        if isinstance(event, Done):
            return replace(event, tally=replace(event.tally, queue_ms=0.0, denoise_ms=0.0))
        if isinstance(event, Step):  # a sum over a vocabulary is not compared to the last bit
            changes = tuple(replace(c, logprobs=None) for c in event.changes)
            written = tuple(
                (at, replace(told, log_p=0.0, top=(), entropy=0.0)) for at, told in event.completed
            )
            return replace(event, changes=changes, completed=written)
        return event


def course(bench: Bench) -> None:
    """Arrivals, departures, pauses, budgets and a step that fails, with every kind of request."""
    some = bench.begin(*ALL[:9], steps=True)
    bench.step(2)
    more = bench.begin(*ALL[9:], through_ends=False)
    bench.step()
    bench.batches.drop(some[2:4])
    bench.batches.pause([*some[5:7], *more[:2]])
    bench.step(2)
    late = bench.begin(*ALL[:4], budget=5 * PACE)
    bench.step()
    bench.batches.resume([some[5], more[0], more[1]])
    bench.network.most = 3
    bench.step(2)
    bench.network.most = 10**6
    bench.push(bench.batches.finish([late[0]], 0.0))
    bench.begin(ALL[7], ALL[9], steps=True)
    bench.batches.resume([some[6]])
    bench.step(16)
    assert not bench.batches


def at(device: torch.device) -> AbstractContextManager:
    """A device works inside."""
    return SecondDevice() if device == DEVICE else nullcontext()


def events_on(device: torch.device) -> list[list[Event]]:
    """The events of a whole course on a device."""
    with at(device):
        bench = Bench(device)
        course(bench)
    return bench.events()


@pytest.fixture(scope="module")
def courses() -> dict[str, list[list[Event]]]:
    """The events of a course on each device."""
    return {name: events_on(device) for name, device in DEVICES.items()}


def test_a_second_device_gives_the_events_of_the_cpu(courses):
    assert courses["cpu"] == courses["second"]
    ends = [type(some[-1]) for some in courses["cpu"]]
    assert ends.count(Failed) == 0 and ends.count(Done) == len(ends) - 2  # two were cancelled


RECORDED = [
    (device, kind)
    for i, kind in enumerate(SOME_KINDS)
    for j, device in enumerate(DEVICES)
    # in ``make test`` every other kind on the CPU, and half of the rest on the second device,
    # which takes three times as long
    if THOROUGH or ((i + j) % 2 and (i % 4 == 0 or not j))
]


@pytest.mark.parametrize("device, kind", RECORDED)
def test_recorded_steps_give_the_events_of_those_taken_eagerly(device, kind, capsys):
    """While requests arrive, leave and wait; no step fails and is repeated in halves."""
    found = []
    for recorder in (None, RECORDERS[device]()):
        with at(DEVICES[device]):
            bench = Bench(DEVICES[device], recorder)
            for turn in range(3):
                some = bench.begin(*[kind] * 4, steps=turn < 2, slow=turn != 1)
                bench.step(2)
                bench.batches.drop(some[:1])
                bench.batches.pause(some[1:2])
                bench.step(4)
                bench.batches.resume(some[1:2])
                bench.step()
            bench.step(16)
            assert not bench.batches
        found.append(bench.events())
        if (graphs := bench.graphs) is not None:
            assert graphs.replayed > graphs.recorded > 0 and graphs.refused == 0
    assert found[0] == found[1]
    assert "step failed" not in capsys.readouterr().out


@pytest.mark.parametrize("kind", some(SOME_KINDS[1:] + SOME_KINDS[:1], 2))
def test_a_recorded_step_is_one_copy_there_and_one_back(kind):
    with SecondDevice() as device:
        bench = Bench(DEVICE, Repeating())
        bench.begin(*[kind] * 6, slow=True)
        bench.begin(kind, slow=True, steps=True)
        assert bench.graphs is not None
        spent = set()
        while bench.batches:
            before, replayed = (device.waits, device.copies), bench.graphs.replayed
            bench.step()
            if bench.graphs.replayed > replayed:
                spent.add((device.waits - before[0], device.copies - before[1]))
        assert (1, 1) in spent
        # the first of a size are taken both ways; of a batch that has shrunk the layout is sent
        assert max(spent) <= (2, 2)


@pytest.mark.parametrize("device", ["cpu", "second"])
def test_a_request_alone_gives_the_tokens_of_the_same_in_company(courses, device):
    with at(DEVICES[device]):
        for i in (0, 9, 17):
            alone = Bench(DEVICES[device])
            alone.begun = i  # so that it is the same request
            (owner,) = alone.begin(ALL[i], steps=i < 9, through_ends=i < 9)
            alone.step(16)
            assert Bench.timeless(owner._pending[-1]) == courses[device][i][-1]


@pytest.mark.parametrize("kind", SOME_KINDS)
def test_a_step_waits_once_and_arrivals_and_departures_never(kind):
    """With readers of trajectories, who cost no more."""
    with SecondDevice() as device:
        bench = Bench(DEVICE)
        first = bench.begin(*[kind] * 6, slow=True)
        first += bench.begin(kind, kind, slow=True, steps=True)

        def spent(change) -> tuple[int, int]:
            """Waits and copies of a change and the step after it."""
            before = device.waits, device.copies
            change()
            bench.step()
            return device.waits - before[0], device.copies - before[1]

        bench.step()
        waits, copies = spent(lambda: None)
        assert (waits, copies) == (1, 3 if "guidance_scale" in KINDS[kind] else 2)
        assert spent(lambda: bench.batches.drop(first[1:2])) == (1, copies)
        assert spent(lambda: bench.batches.pause(first[2:3])) == (1, copies)
        assert spent(lambda: bench.batches.finish(first[3:4], 0.0)) == (1, copies)
        waits, more = spent(lambda: bench.begin(kind, steps=True))
        assert waits == 1 and more - copies <= 3
        waits, more = spent(lambda: bench.batches.resume(first[2:3]))
        assert waits == 1 and more - copies <= 3


@pytest.mark.parametrize("inference", [False, True])
def test_a_question_to_the_second_device_is_counted(inference):
    with SecondDevice() as device, torch.inference_mode(inference):
        x = torch.arange(4).to(DEVICE)
        assert isinstance(x, Remote) and device.copies == 1
        for at, question in enumerate(
            (
                *(lambda: x[x > 1], x.cpu, x.sum().item, x.nonzero, lambda: bool(x.any())),
                *(lambda: float(x.sum()), lambda: x.repeat_interleave(x), lambda: torch.where(x)),
            )
        ):
            question()
            assert device.waits == at + 1
        assert device.copies == 1
        with pytest.raises(RuntimeError, match="tolist"):
            x.tolist()
        with pytest.raises(AssertionError, match="mixes devices"):
            torch.add(x, torch.arange(4))
