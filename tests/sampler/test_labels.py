"""Class labels reach the network, and guidance by labels is what the formulas say."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from sampler import READERS, SAMPLERS, make_params
from sampler.batch import CanvasBatch
from sampler.noise_kernel import NoiseKernel
from sampler.params import InvalidParam, SamplingParams
from sampler.samplers.ancestral import Ancestral
from sampler.schedules import SCHEDULES
from sampler.step import take_step, take_steps
from tests.support.effort import count

N, MASK, CLASSES = 9, 6, 3
WITH_MASKS = [name for name, spec in SAMPLERS.items() if not spec.params.needs_canvases]


class Labelled:
    """Logits [N] are a fixed random function of a position's token and its canvas' label."""

    classes = CLASSES

    def __init__(self) -> None:
        g = torch.Generator().manual_seed(0)
        self.table = 2 * torch.randn(CLASSES + 1, N, N, generator=g)
        self.runs: list[tuple[list[int], list[list[int]]]] = []

    def trunk(self, tokens: Tensor, offsets: Tensor, rows: Tensor, labels=None) -> Tensor:
        assert labels is not None
        canvases = tokens.split(offsets.diff().tolist())
        self.runs.append((labels.tolist(), [c.tolist() for c in canvases]))
        return self.table[labels.repeat_interleave(offsets.diff())[rows], tokens[rows]]

    def head(self, hidden: Tensor) -> Tensor:
        return hidden


def params(label: int | None, **choices) -> SamplingParams:
    return make_params(**{"steps": 8, "seed": 4, "class_label": label} | choices)


def test_each_canvas_is_run_with_its_label_and_once_more_with_none_under_guidance():
    network = Labelled()
    canvases = [
        ([1, 2], [False, True], params(0, guidance_scale=2.0, temperature=0.0)),
        ([3], [True], params(2)),
        ([4], [True], params(None)),
        ([5, 2], [False, True], params(None, guidance_scale=3.0)),
        ([7], [True], params(1, guidance_scale=1.0)),
    ]
    batch = CanvasBatch.of(canvases)
    for _ in range(8):  # the last call looks at every position
        batch = batch.advanced(batch.tokens)
    result = take_step(Ancestral(N, MASK), network, batch)
    ((labels, tokens),) = network.runs
    assert labels == [0, 2, CLASSES, CLASSES, 1, CLASSES, CLASSES]
    assert tokens == [[1, 2], [3], [4], [5, 2], [7], [1, 2], [MASK, 2]]
    assert result.forwards.tolist() == [2, 1, 1, 2, 1]


@pytest.mark.parametrize("guidance", [1.0, 2.5, 0.0])
@pytest.mark.parametrize(("k", "udlm"), [(0.1, False), (0.0, False), (1.0, True)])
def test_one_guided_step_draws_from_the_posterior_of_guided_logits(k, udlm, guidance):
    """Against (1 + gamma) log p(label) - gamma log p(no label), gamma = w - 1, over all ids: the
    mask suppressed, then temperature, then eq. 11. Chi-square, false alarm 1e-6 each.
    """
    network, draws, label, z, heat = Labelled(), count(100_000, 300_000), 1, 3 if k else MASK, 0.8
    mask_id = None if udlm else MASK
    chosen = params(label, guidance_scale=guidance, mixing_ratio=k, temperature=heat)
    batch = CanvasBatch.of([([z] * draws, [True] * draws, chosen)])
    for _ in range(3):
        batch = batch.advanced(batch.tokens)
    after = take_step(Ancestral(N, mask_id), network, batch).batch.tokens
    counts = torch.bincount(after, minlength=N).double()

    gamma, kernel = guidance - 1.0, NoiseKernel(k, N, mask_id)
    cond, uncond = (network.table[y, z].double().log_softmax(-1) for y in (label, CLASSES))
    logits = (1 + gamma) * cond - gamma * uncond
    p = kernel.suppress_mask(logits / heat).softmax(-1)
    alphas = SCHEDULES["log_linear"].grid(torch.tensor(3), torch.tensor(8))
    expected = kernel.posterior(p, torch.tensor(z), *alphas) * draws
    assert counts[expected == 0].sum() == 0
    statistic = ((counts - expected).square() / expected)[expected > 0].sum()
    assert chi2.sf(float(statistic), int((expected > 0).sum()) - 1) > 1e-6


@pytest.mark.parametrize("sampler", WITH_MASKS)
def test_every_sampler_is_told_of_guided_probabilities(sampler):
    network, w = Labelled(), 2.0
    chosen = params(2, sampler=sampler, steps=1, guidance_scale=w, temperature=0.0)
    network_only = SAMPLERS[sampler].make(N, MASK, ())
    batch = network_only.begin(CanvasBatch.of([([0] * 4, [True] * 4, chosen)]))
    batch = batch.with_tokens(torch.full_like(batch.tokens, MASK))
    if sampler in READERS["noise_removal"]:
        batch = batch.advanced(batch.tokens)
    result = take_step(network_only, network, batch)
    cond, uncond = network.table[2, MASK], network.table[CLASSES, MASK]
    p = (w * cond - (w - 1) * uncond).index_fill(0, torch.tensor([MASK]), -torch.inf).softmax(-1)
    assert result.batch.tokens.tolist() == 4 * [int(p.argmax())]
    told = torch.ones(4) if sampler in READERS["noise_removal"] else p.max().expand(4)
    torch.testing.assert_close(result.change.confidence.float(), told)


def test_labels_and_guidance_mixed_give_the_tokens_of_each_alone():
    network = Labelled()
    names = WITH_MASKS

    def canvas(i: int):
        label = None if i % 4 == 3 else i % CLASSES
        name = names[i % len(names)]
        mixing = {"mixing_ratio": 0.1 * (i % 3)} if name in READERS["mixing_ratio"] else {}
        chosen = params(
            label,
            sampler=name,
            seed=i,
            steps=3 + i % 5,
            guidance_scale=1.0 + i % 2,
            **mixing,
        )
        return name, ([0] * (4 + i), [True] * (4 + i), chosen)

    def run(requests) -> list[list[int]]:
        """All requests walk together; those that are done leave."""
        live, done = {}, {}
        for name in {name for name, _ in requests}:
            sampler = SAMPLERS[name].make(N, MASK, ())
            places = [i for i, (n, _) in enumerate(requests) if n == name]
            batch = CanvasBatch.of([requests[i][1] for i in places])
            live[name] = (sampler, sampler.begin(batch), places)
        while live:
            results = take_steps(network, [(s, b) for s, b, _ in live.values()])
            for name, result in zip(list(live), results, strict=True):
                sampler, _, places = live.pop(name)
                batch = result.batch
                canvases = batch.tokens.split(batch.lengths.tolist())
                finished = batch.finished.tolist()
                for i, canvas, is_done in zip(places, canvases, finished, strict=True):
                    if is_done:
                        done[i] = canvas.tolist()
                if not all(finished):
                    places = [i for i in places if i not in done]
                    live[name] = (sampler, batch.kept(~batch.finished), places)
        return [done[i] for i in range(len(requests))]

    requests = [canvas(i) for i in range(15)]
    together = run(requests)
    for request, tokens in zip(requests, together, strict=True):
        assert run([request]) == [tokens]


@pytest.mark.parametrize("label", [-1, True, 2**40])
def test_labels_that_are_none_are_refused_by_name(label):
    with pytest.raises(InvalidParam, match="class_label"):
        make_params(class_label=label)
