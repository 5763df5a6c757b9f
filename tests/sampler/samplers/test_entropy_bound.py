"""The sampler of canvases of uniform noise, on networks that encode nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sampler import make_params
from sampler.batch import CanvasBatch
from sampler.params import InvalidParam
from sampler.samplers.entropy_bound import EntropyBound, _digests
from sampler.step import take_step
from sampler.transition import OPS
from tests.sampler.chance import odds
from tests.sampler.toy import Hashed, N, Table

SAMPLER = EntropyBound(N, None)
UNIFORM = torch.full((N,), 1 / N, dtype=torch.float64)


def canvas(length: int = 8, prompt: int = 2, **values):
    params = make_params("entropy_bound", **{"steps": 4096, **values})
    return [3] * prompt + [0] * length, [False] * prompt + [True] * length, params


def begun(*canvases) -> CanvasBatch:
    return SAMPLER.begin(CanvasBatch.of(list(canvases)))


def noise_of(batch: CanvasBatch) -> np.ndarray:
    assert batch.noise is not None
    return batch.noise


def test_a_canvas_begins_as_uniform_ids_and_its_prompt_stays():
    batch = begun(canvas(3000, seed=1))
    assert batch.tokens[:2].tolist() == [3, 3] and not noise_of(batch)[:2].any()
    counts = batch.tokens[2:].bincount(minlength=N)
    assert odds(counts, UNIFORM) > 1e-4
    other = begun(canvas(3000, seed=2))
    assert (batch.tokens[2:] == other.tokens[2:]).float().mean() < 0.15


def test_what_is_not_accepted_becomes_new_uniform_ids():
    """With a bound of 0 and no certainty at all, one position of a step is accepted."""
    batch = begun(canvas(2000, entropy_bound=0.0, seed=4, max_denoising_steps=9))
    counts = torch.zeros(N)
    for _ in range(4):
        before = batch.tokens[2:]
        result = take_step(SAMPLER, Table(torch.zeros(N)), batch)
        batch = result.batch
        assert int(noise_of(batch).sum()) == 1999
        counts += batch.tokens[2:].bincount(minlength=N)
        assert abs(float((before == batch.tokens[2:]).float().mean()) - 1 / N) < 0.03
    assert odds(counts, UNIFORM) > 1e-4


def test_tokens_are_drawn_at_the_temperature_of_the_step():
    logits = torch.linspace(-1, 2, N)
    at = {"t_min": 0.5, "t_max": 1.5, "entropy_bound": 1e6, "max_denoising_steps": 4}
    for scale in (1.0, 0.5):
        batch = begun(canvas(4000, seed=6, temperature=scale, **at))
        for heat in (1.5, 1.25, 1.0):
            batch = take_step(SAMPLER, Table(logits), batch).batch
            counts = batch.tokens[2:].bincount(minlength=N)
            assert odds(counts, (logits.double() / (heat * scale)).softmax(-1)) > 1e-4
    batch = take_step(SAMPLER, Table(logits), begun(canvas(40, temperature=0.0, **at))).batch
    assert set(batch.tokens[2:].tolist()) == {N - 1}


@pytest.mark.parametrize(("stable", "steps"), [(0, 1), (1, 2), (3, 4)])
def test_a_sure_canvas_ends_when_it_was_stable(stable, steps):
    sure = torch.tensor([40.0] + [0.0] * (N - 1))
    batch = begun(canvas(16, stability_threshold=stable, block_length=8))
    for index in range(2):
        for i in range(steps):
            assert batch.own.canvas.tolist() == [index] and batch.own.phase.tolist() == [i]
            batch = take_step(SAMPLER, Table(sure), batch).batch
        assert SAMPLER.settled(batch).tolist() == [2 + 8 * (index + 1)]
    assert set(batch.tokens[2:].tolist()) == {0} and not noise_of(batch).any()
    assert take_step(SAMPLER, Table(sure), batch).head_rows == 0


def test_a_canvas_that_is_never_sure_ends_after_its_steps_with_the_likeliest_tokens():
    likely = torch.zeros(N)
    likely[5] = 0.01
    for values, steps in (({"max_denoising_steps": 3}, 3), ({"steps": 10}, 5)):
        batch = begun(canvas(16, block_length=8, entropy_bound=0.0, **values))
        for _ in range(steps):
            assert batch.own.canvas.tolist() == [0]
            batch = take_step(SAMPLER, Table(likely), batch).batch
        assert batch.own.canvas.tolist() == [1]
        assert batch.tokens[2:10].tolist() == [5] * 8
        assert noise_of(batch)[10:].all() and not noise_of(batch)[:10].any()


def test_changes_are_told_by_what_was_noise_and_what_is():
    batch = begun(canvas(40, entropy_bound=6.0, seed=3, max_denoising_steps=6))
    seen = set()
    for _ in range(6):
        result = take_step(SAMPLER, Hashed(), batch)
        change, before = result.change, batch
        batch = result.batch
        for row, op in zip(change.rows.tolist(), change.op.tolist(), strict=True):
            expected = (
                "remask"
                if noise_of(batch)[row]
                else "unmask"
                if noise_of(before)[row]
                else "refine"
            )
            assert OPS[op] == expected
            seen.add(expected)
    assert seen == set(OPS)


def test_a_canvas_has_the_same_tokens_alone_and_in_company():
    rng = np.random.default_rng(0)
    many = [
        canvas(int(rng.integers(5, 40)), seed=i, block_length=8, max_denoising_steps=5, top_p=0.9)
        for i in range(6)
    ]

    def run(*canvases) -> list[list[int]]:
        batch = begun(*canvases)
        for _ in range(25):
            batch = take_step(SAMPLER, Hashed(), batch).batch
        return [t.tolist() for t in batch.tokens.split(batch.lengths.tolist())]

    together = run(*many)
    assert together == [run(one)[0] for one in many]


def test_log_probabilities_are_those_of_the_step_that_ends_a_canvas():
    """Also of tokens that stood there, at temperature 1 and before ``top_p``, with biases."""
    values = {"seed": 5, "block_length": 8, "max_denoising_steps": 4, "entropy_bound": 4.0}
    values |= {"top_p": 0.8, "temperature": 0.6, "logit_bias": ((4, 1.5),), "logprobs": True}
    plain = {**values, "logprobs": False}
    batch, network = begun(canvas(20, **values), canvas(11, **plain)), Hashed()
    silent = begun(canvas(20, **plain), canvas(11, **plain))
    kept = 0
    for _ in range(13):
        result = take_step(SAMPLER, network, batch)
        silent = take_step(SAMPLER, network, silent).batch
        before, canvas_before = batch.tokens, int(batch.own.canvas[0])
        batch = result.batch
        assert torch.equal(batch.tokens, silent.tokens)
        assert result.change.log_p is None
        told = result.change.completed
        if told is None:
            assert not result.head_rows
            continue
        rows = told.rows[told.rows < 22]
        if int(batch.own.canvas[0]) == canvas_before:
            assert not len(rows)
            continue
        begin = 2 + 8 * canvas_before
        assert rows.tolist() == list(range(begin, min(begin + 8, 22)))
        offsets = torch.tensor([0, *batch.lengths.tolist()]).cumsum(0)
        logits = network.head(network.trunk(before, offsets, rows)).double()
        logits[:, 4] += 1.5
        log_p = logits.log_softmax(-1)
        best = log_p.max(-1)
        count = len(rows)
        assert torch.equal(batch.tokens[rows], best.indices)
        assert torch.allclose(told.log_p[:count], best.values, atol=1e-6)
        assert torch.allclose(told.top_log_p[:count], log_p.topk(N).values, atol=1e-6)
        assert torch.equal(told.top_ids[:count, 0], best.indices)
        entropy = torch.special.entr(log_p.exp()).sum(-1)
        assert torch.allclose(told.entropy[:count], entropy, atol=1e-6)
        kept += int((before[rows] == batch.tokens[rows]).sum())
    assert kept


def test_log_probabilities_are_the_same_alone_and_in_company():
    values = {"block_length": 8, "max_denoising_steps": 3, "logprobs": True}
    many = [canvas(9 + 3 * i, seed=i, **values) for i in range(4)]

    def told(*canvases) -> list[tuple]:
        batch, found = begun(*canvases), []
        for _ in range(9):
            result = take_step(SAMPLER, Hashed(), batch)
            batch, done = result.batch, result.change.completed
            if done is not None:
                first = int(batch.lengths[:-1].sum())
                mine = done.rows >= first
                columns = (done.rows - first, done.log_p, done.top_ids, done.top_log_p)
                found += zip(*(c[mine].tolist() for c in columns), strict=True)
        return found

    assert told(*many) == told(many[-1]) and len(told(many[-1])) == 18


def test_digests_tell_ids_and_their_places():
    ids = torch.randint(50, (4000, 6), generator=torch.Generator().manual_seed(0))
    rows, place = ids.flatten(), torch.arange(6).repeat(4000)
    group = torch.arange(4000).repeat_interleave(6)
    found = _digests(rows, place, group, 4000)
    assert len(found.unique()) == len(ids.unique(dim=0))
    swapped = _digests(ids.flip(1).flatten(), place, group, 4000)
    same = (ids == ids.flip(1)).all(1)
    assert torch.equal(found == swapped, same)


def test_digests_do_not_depend_on_the_order_of_rows():
    g = torch.Generator().manual_seed(1)
    ids, place = torch.randint(50, (64,), generator=g), torch.arange(64)
    order = torch.randperm(64, generator=g)
    one = torch.zeros(64, dtype=torch.int64)
    assert torch.equal(_digests(ids, place, one, 1), _digests(ids[order], place[order], one, 1))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("t_min", 0.0), ("t_max", 11.0), ("max_denoising_steps", 0), ("stop_entropy", -1.0)],
        *[("stability_threshold", -1), ("entropy_bound", -0.1)],
        *[("mixing_ratio", 0.5), ("confidence_threshold", 0.5), ("editing_threshold", 0.5)],
    ],
)
def test_values_that_cannot_be_are_refused_by_name(field, value):
    with pytest.raises(InvalidParam) as refused:
        make_params("entropy_bound", **{field: value})
    assert refused.value.field == field


def test_fewer_steps_than_canvases_are_refused():
    with pytest.raises(InvalidParam, match="number of blocks, 3"):
        CanvasBatch.of([canvas(17, block_length=8, steps=2)])
    params = make_params("entropy_bound", block_length=8)
    assert params.own.most_steps(17) == 3 * 48 and params.own.fixed_steps


def test_a_kept_batch_knows_its_noise():
    batch = begun(canvas(8), canvas(5))
    kept = batch.kept(torch.tensor([False, True]))
    assert noise_of(kept).tolist() == [False] * 2 + [True] * 5
