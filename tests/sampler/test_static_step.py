"""A step asks the device for nothing, and its shapes hold for every mixture of requests."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from sampler import SAMPLERS
from sampler.batch import CanvasBatch
from sampler.layout import Layout
from sampler.philox import constants
from sampler.proposed import Proposed
from sampler.room import Room
from sampler.step import take, take_steps
from tests.sampler.settings import KINDS, SOME_KINDS, canvas
from tests.sampler.tape import Tape
from tests.sampler.toy import Mixing
from tests.support.effort import count

V, MASK, ENDS = 96, 95, (1, 2)
LAYOUTS = ([(3, 24), (0, 32), (9, 16)], [(20, 24), (1, 16), (5, 24)], [(2, 16), (7, 48), (4, 8)])
POSITIONS, CANVASES = 96, 4  # with one more canvas that fills the rest


def batch_of(kind: str, rng: random.Random, sizes) -> tuple:
    sampler = SAMPLERS[KINDS[kind]["sampler"]].make(V, MASK, ENDS)
    canvases = [canvas(kind, rng, V, prompt, length) for prompt, length in sizes]
    rest = POSITIONS - sum(len(tokens) for tokens, _, _ in canvases)
    nobody = ([0] * rest, [False] * rest, canvases[0][2])
    opening = None
    if kind == "canvases":  # a third of the positions keep what they begin with
        free = [at for _, editable, _ in (*canvases, nobody) for at in editable]
        pinned = np.array([at and rng.random() < 0.3 for at in free])
        opening = pinned, pinned
    return sampler, sampler.begin(CanvasBatch.of([*canvases, nobody], opening=opening))


def bounded(network, sampler, batch: CanvasBatch) -> dict:
    plan = sampler.plan(batch)
    proposed = Proposed.of(sampler, batch.layout, plan.now, batch.tokens)
    room = Room.bound(batch.layout, plan.asks, POSITIONS)
    ((_, told),) = take(network, [proposed], [room])
    return told


@pytest.mark.parametrize("kind", SOME_KINDS)
def test_a_step_in_a_bounded_room_asks_no_value_of_the_device(kind):
    """On fake tensors, which have shapes and no values, every question is an error."""
    sampler, batch = batch_of(kind, random.Random(1), LAYOUTS[0])
    network = Mixing(V)
    for at in (0, 1, 11, 12)[:: count(3, 1)]:  # the last is the noise removal
        now = replace(batch, step=torch.full_like(batch.step, at))
        plan = sampler.plan(now)
        mode = FakeTensorMode()
        fake = mode.from_tensor
        columns = {n: getattr(batch.layout, n) for n in Layout.__dataclass_fields__}
        host = {n: columns.pop(n) for n in ("lengths", "first")}
        there = {n: fake(t) for n, t in columns.items() if t is not None}
        layout = Layout(**host, **there)
        settings = replace(plan.now, whole=fake(plan.now.whole), real=fake(plan.now.real))
        known = Mixing(V)
        known.embedding = fake(network.embedding)
        room = Room.bound(layout, plan.asks, POSITIONS)
        constants.cache_clear()
        try:
            with mode, torch.inference_mode():
                proposed = Proposed.of(sampler, layout, settings, fake(batch.tokens))
                take(known, [proposed], [room])
        finally:
            constants.cache_clear()  # made while all tensors were fake


@pytest.mark.parametrize("kind", SOME_KINDS)
def test_a_recorded_step_replays_for_other_mixtures_and_layouts(kind):
    """One recording serves 20 mixtures (3 in ``make test``) in 3 layouts: what it reads is written
    over.
    """
    rng, network = random.Random(2), Mixing(V)
    sampler, batch = batch_of(kind, rng, LAYOUTS[0])
    plan = sampler.plan(batch)
    known = [n for n in Layout.__dataclass_fields__ if n != "lengths"]
    names = [n for n in known if getattr(batch.layout, n) is not None]
    layout = replace(batch.layout, **{n: getattr(batch.layout, n).clone() for n in names})
    now, tokens = replace(plan.now), batch.tokens.clone()
    room = Room.bound(layout, plan.asks, POSITIONS)
    room = replace(room, longest=POSITIONS)
    static = [getattr(layout, n) for n in names]
    static += [now.whole, now.real, tokens, network.embedding, *constants(tokens.device)]
    with torch.inference_mode(), Tape(static) as tape:
        proposed = Proposed.of(sampler, layout, now, tokens)
        ((_, told),) = take(network, [proposed], [room])
    assert tape.foreign == []
    for trial in range(count(3, 20)):
        _, batch = batch_of(kind, rng, LAYOUTS[trial % 3])
        for _ in range(4):
            fresh = sampler.plan(batch)
            assert set(fresh.asks) == set(plan.asks)  # else it would be another shape
            for n in names:
                getattr(layout, n).copy_(getattr(batch.layout, n))
            now.whole.copy_(fresh.now.whole)
            now.real.copy_(fresh.now.real)
            tokens.copy_(batch.tokens)
            tape.replay()
            (result,) = take_steps(network, [(sampler, batch)])
            assert torch.equal(told["tokens"], result.batch.tokens)
            valid = told["rows"] < POSITIONS
            assert int(valid.sum()) == result.head_rows
            if "carry" in told:
                assert torch.equal(told["carry"], result.batch.own.carry)
            batch = result.batch


class Counted(TorchDispatchMode):
    """Counts operations that are no views, outside the network."""

    VIEWS: ClassVar = {
        *("view", "expand", "slice", "select", "unsqueeze", "squeeze", "split", "unbind", "alias"),
        *("split_with_sizes", "_unsafe_view", "t", "transpose", "permute", "detach", "as_strided"),
        *("_reshape_alias", "reshape", "empty", "new_empty", "empty_like"),
    }

    def __init__(self) -> None:
        super().__init__()
        self.count, self.inside = 0, False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not self.inside:
            self.count += func.overloadpacket.__name__ not in self.VIEWS
        return func(*args, **(kwargs or {}))


class Outside:
    """A network whose own operations are not counted."""

    classes = 0

    def __init__(self, counter: Counted) -> None:
        self.network, self.counter = Mixing(V), counter

    def trunk(self, tokens, offsets, rows, labels=None):
        return self._apart(self.network.trunk, tokens, offsets, rows)

    def head(self, hidden):
        return self._apart(self.network.head, hidden)

    def _apart(self, work, *args):
        self.counter.inside = True
        try:
            return work(*args)
        finally:
            self.counter.inside = False


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_outside_the_network_takes_at_most_320_operations(kind):
    counts = []
    for requests in (1, 64):
        rng = random.Random(3)
        sampler = SAMPLERS[KINDS[kind]["sampler"]].make(V, MASK, ENDS)
        canvases = [canvas(kind, rng, V, 2, 16) for _ in range(requests)]
        batch = sampler.begin(CanvasBatch.of(canvases))
        plan, counter = sampler.plan(batch), Counted()
        constants(batch.tokens.device)  # made once
        with torch.inference_mode(), counter:
            proposed = Proposed.of(sampler, batch.layout, plan.now, batch.tokens)
            room = Room.bound(batch.layout, plan.asks, batch.layout.positions)
            take(Outside(counter), [proposed], [room])
        counts.append(counter.count)
    assert counts[0] == counts[1] <= 320
