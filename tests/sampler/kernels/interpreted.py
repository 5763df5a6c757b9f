"""Kernels of the sampler in Triton's interpreter, on a CPU, against operations of PyTorch.

``test_interpreted.py`` runs these tests in a process of its own. Whole numbers are the same, drawn
ids too, but for draws within 10^-6 of where one id ends and the next begins; probabilities are
within 3 * 10^-7.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from fusion import choice
from fusion.choice import Draw, operations_of_pytorch
from sampler import packing, philox
from sampler.graphs import StepGraphs
from sampler.logits import row_kernel
from sampler.logits.categorical import sharpness_of
from sampler.logits.row_kernel import Facts
from sampler.logits.row_reader import _plain, row_stats
from sampler.logits.row_requests import ALL, Chunk, RowQuery
from sampler.logits.row_stats import RowStats
from sampler.philox import Role
from sampler.step import take_steps
from tests.sampler.kernels import cases
from tests.sampler.settings import KINDS
from tests.sampler.test_graphs import batch_of, same
from tests.sampler.toy import Mixing
from tests.support import kernels
from tests.support.effort import THOROUGH, count

CPU = torch.device("cpu")
READS = cases.reads(cases.VOCABULARIES if THOROUGH else (3, 129, 1000))
STEPS = ("ancestral", "topk", "threshold in parts")
OTHERS = cases.others()


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def deviation(found: Tensor, expected: Tensor) -> float:
    """The greatest; infinite where whole numbers differ at all."""
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    if not found.is_floating_point():
        return 0.0 if torch.equal(found, expected) else torch.inf
    return float((found - expected).abs().max())


@pytest.mark.parametrize("case", READS)
def test_reading_agrees(case):
    assert all(deviation(*pair) <= 3e-7 for pair in READS[case](Draw(CPU, torch.float32)))


@pytest.mark.parametrize("case", OTHERS)
def test_the_others_are_exact(case):
    compare, dtype = OTHERS[case]
    assert all(torch.equal(*pair) for pair in compare(Draw(CPU, dtype)))


def questions(rows: int, vocab: int, facts: Facts, g: torch.Generator) -> Chunk:
    """Random questions; temperatures of 0, 1 and others where rows are drawn and tempered."""

    def flags(wanted: bool) -> Tensor | None:
        return torch.rand(rows, generator=g) < 0.5 if wanted else None

    heats = torch.tensor([0.0, 1.0, 0.3, 0.9, 2.0, 1e-40] if facts.tempered else [0.0, 1.0])
    heat = heats[torch.randint(len(heats), (rows,), generator=g)].double()
    asked = row_kernel._questions(
        torch.zeros(row_kernel.ROWS, 1), torch.zeros(row_kernel.ROWS), facts
    )
    kinds = [0, *(n for n in (1, 2, 3) if row_kernel.CERTAINTY[n] in asked.asks)]
    query = RowQuery(
        current=torch.randint(vocab, (rows,), generator=g),
        u=torch.rand(rows, generator=g, dtype=torch.float64),
        temperature=heat if facts.drawn else torch.zeros_like(heat),
        certainty=torch.tensor(kinds)[torch.randint(len(kinds), (rows,), generator=g)]
        if facts.sure
        else None,
        as_model=flags(True),
        entropy=flags(facts.entropy),
        no_eos=flags(facts.end >= 0),
    )
    asks = dict(asked.asks)
    if facts.model_told:
        asks["model"] = torch.arange(rows) if facts.draw_told else ALL
    return Chunk(slice(0, rows), query, asks, slice(0, 0), may_ask=False)


def check(found: RowStats, expected: RowStats, logits: Tensor, chunk: Chunk, facts: Facts) -> int:
    """Compare both, and count draws that differ as they may."""
    assert torch.equal(found.finite, expected.finite)
    assert ((found.sample >= 0) & (found.sample < logits.shape[1])).all()
    fine = expected.finite
    differ = fine & (found.sample != expected.sample)
    for row in differ.nonzero()[:, 0]:
        x = logits[row].double()
        if facts.mask >= 0:
            x[facts.mask] = -torch.inf
        if facts.end >= 0 and chunk.query.no_eos is not None and chunk.query.no_eos[row]:
            x[facts.end] = -torch.inf
        edges = (x * sharpness_of(chunk.query.temperature)[row].double()).softmax(-1).cumsum(0)
        between = edges[torch.minimum(found.sample, expected.sample)[row]]
        assert abs(between - chunk.query.u[row]) < 1e-6
    alike = fine & ~differ
    for name, most in {
        "p_sample": 3e-7,
        "p_current": 3e-7,
        "entropy": 1e-12 * logits.shape[1],
        "certainty": 1e-5,
    }.items():
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert (ours is None) == (theirs is None)
        if ours is not None and alike.any():
            assert deviation(ours[alike], theirs[alike]) <= most, name
    return int(differ.sum())


def odd(logits: Tensor, g: torch.Generator) -> Tensor:
    """The same with rows of ties, of one possible id, of equal logits, and three that are not
    finite.
    """
    vocab = logits.shape[1]
    logits[0] = logits[0].round()
    logits[1] = -torch.inf
    logits[1, torch.randint(vocab - 1, (), generator=g)] = 3.5  # beside the mask
    logits[2] = 0.25
    logits[3, vocab // 2] = torch.nan
    logits[4] = torch.nan
    logits[5, 2] = torch.inf
    logits[6] = -torch.inf
    logits[7, : vocab // 2] = -torch.inf
    return logits


@pytest.mark.parametrize("about", cases.questions(100))
@pytest.mark.parametrize("vocab", [5, 130, 700, 4454] if THOROUGH else [130, 700])
def test_reading_of_random_rows(vocab, about, rows=12):
    """Flat and steep ones, in both types, those that are not finite among them."""
    facts, differ, read = cases.questions(vocab)[about], 0, 0
    for seed in range(count(1, 3)):
        g = torch.Generator().manual_seed(seed)
        for dtype in (torch.float32, torch.bfloat16):
            steep = torch.tensor([0.3, 1.0, 4.0])[torch.randint(3, (rows, 1), generator=g)]
            logits = odd(torch.randn(rows, vocab, generator=g) * steep, g).to(dtype)
            chunk = questions(rows, vocab, facts, g)
            ends = (facts.end,) if facts.end >= 0 else ()
            mask = facts.mask if facts.mask >= 0 else None
            with np.errstate(all="ignore"):
                found = row_kernel._kernel(logits, chunk, facts)
            expected = _plain(logits, chunk, mask, ends)
            assert not expected.finite[3:7].any()
            differ += check(found, expected, logits, chunk, facts)
            read += len(logits)
    assert differ <= read // 20


def test_the_kernel_is_used_for_parts_of_rows_and_writes_nothing_beside_them(monkeypatch):
    kernels.on_cpu(monkeypatch)
    g = torch.Generator().manual_seed(5)
    room = torch.randn(9, 400, generator=g)
    around, part = room.clone(), room[2:7, 16:316]
    facts = cases.questions(300)["everything"]
    chunk = questions(5, 300, facts, g)
    found = row_stats(part, chunk, facts.mask, (facts.end,))
    assert choice._agree and all(choice._agree.values()) and not choice._warned
    assert torch.equal(room, around)
    assert check(found, _plain(part, chunk, facts.mask, (facts.end,)), part, chunk, facts) == 0


def test_no_rows_are_no_work():
    facts = cases.questions(100)["topk"]
    chunk = questions(0, 100, facts, torch.Generator())
    assert row_kernel._kernel(torch.zeros(0, 100), chunk, facts).sample.shape == (0,)
    none = torch.zeros(0, dtype=torch.int64)
    assert len(philox._kernel(none, none, none, (Role.TOKEN,))[0]) == 0
    place, count = packing._places_kernel(torch.zeros(0), none, 3)
    assert place.shape == (0,) and not count.any()
    assert packing._marked_kernel(torch.zeros(4, dtype=torch.bool), 0).shape == (0,)


def test_uniforms_of_random_counters_are_the_same_bits():
    g = torch.Generator().manual_seed(2)
    for size in (1, 255, 257, 1000):
        seed = torch.randint(-(2**63), 2**63 - 1, (size,), generator=g)
        step = torch.randint(2**33, (size,), generator=g)
        position = torch.randint(2**40, (size,), generator=g)
        for roles in ((Role.TOKEN,), (Role.BRANCH, Role.TOKEN), (Role.NOISE, Role.JOINT)):
            both = (f(seed, step, position, roles) for f in (philox._kernel, philox._plain))
            assert all(map(torch.equal, *both))


def test_marked_positions_and_places_of_random_rows():
    g = torch.Generator().manual_seed(3)
    for size in (1, 31, 33, 500, 3000):
        for share in (0.0, 0.1, 0.9, 1.0):
            marks = torch.rand(size, generator=g) < share
            for room in {int(marks.sum()), int(marks.sum()) + 5, size, 2 * size}:
                found = packing._marked_kernel(marks, room)
                assert torch.equal(found, packing._marked_plain(marks, room))
    for size in (1, 31, 33, 300):
        for dtype in (torch.float64, torch.float32):
            score = torch.randn(size, generator=g).mul(2).round().to(dtype)
            score[torch.rand(size, generator=g) < 0.1] = torch.inf
            score[torch.rand(size, generator=g) < 0.1] = -torch.inf
            score[torch.rand(size, generator=g) < 0.1] = -0.0
            score[torch.rand(size, generator=g) < 0.1] = torch.nan
            group = torch.randint(5, (size,), generator=g)
            both = (f(score, group, 7) for f in (packing._places_kernel, packing._places_plain))
            assert all(map(torch.equal, *both))


class Again:
    """Records steps by taking them again on the same memory."""

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        result = work()

        def again() -> None:
            result.copy_(work())

        return again, result


@pytest.mark.parametrize("kind", KINDS if THOROUGH else STEPS)
def test_steps_by_kernels_are_those_by_torch(monkeypatch, kind):
    """Eagerly, then in fixed shapes; with every sampler, and with settings that kernels do not
    serve.
    """
    kernels.on_cpu(monkeypatch)
    rng, network = random.Random(7), Mixing(96)
    graphs = StepGraphs(network, CPU, Again())
    sampler, batch = batch_of(kind, rng, [(3, 8), (0, 16)])
    alone = batch
    for step in range(count(4, int(batch.calls.max()))):
        (taken,) = graphs.take_steps(network, [(sampler, batch)])
        with operations_of_pytorch():
            (eager,) = take_steps(network, [(sampler, alone)])
        assert same(eager, taken), step
        batch, alone = taken.batch, eager.batch
    assert all(choice._agree.values()) and not choice._warned
    used = {name for name, *_ in choice._agree}
    assert {"uniforms", "marked"} <= used
    if kind in STEPS:
        assert "read_rows" in used and graphs.replayed
        assert ("places" in used) == (not kind.startswith("ancestral"))
