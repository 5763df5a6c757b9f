"""Shared by sampler tests: histograms of one step, whole chains, and how far they may be off."""

from __future__ import annotations

from collections.abc import Callable

import torch
from scipy.stats import chi2
from torch import Tensor

from sampler import SAMPLERS
from sampler.batch import CanvasBatch
from sampler.params import SamplingParams
from sampler.step import take_step
from tests.sampler.toy import Neighbours, Table
from tests.support.effort import count

CHAINS = count(10_000, 30_000)


def one_step(params: SamplingParams, logits: Tensor, mask: int, z: int, step: int, draws: int):
    """Histogram of one step of the sampler from ``draws`` positions that all hold z."""
    sampler = SAMPLERS[params.sampler].make(len(logits), mask, ())
    batch = CanvasBatch.of([([z] * draws, [True] * draws, params)])
    for _ in range(step):
        batch = batch.advanced(batch.tokens)
    after = take_step(sampler, Table(logits), batch).batch.tokens
    return torch.bincount(after, minlength=len(logits))


def odds(counts: Tensor, probabilities: Tensor) -> float:
    """Chi-square: how likely counts at least this far off are; 0 if something impossible was
    seen.
    """
    assert abs(float(probabilities.sum()) - 1) < 1e-9
    draws = int(counts.sum())
    expected = probabilities * draws
    rare = expected < 5  # their counts are not normal: they are looked at together
    seen, most = int(counts[rare].sum()), float(expected[rare].sum())
    if seen > most + 6 * most**0.5 + 6 * (most > 0):
        return 0.0
    freedom = int((~rare).sum()) - 1
    if freedom < 1:
        return 1.0
    statistic = ((counts - expected)[~rare].square() / expected[~rare]).sum()
    return float(chi2.sf(float(statistic), freedom))


def joint(tokens: Tensor, n: int) -> Tensor:
    """Shares of all n^3 canvases of three positions."""
    weights = torch.tensor([n * n, n, 1])
    return torch.bincount((tokens.view(-1, 3) * weights).sum(1), minlength=n**3) / CHAINS


def chains(network: Neighbours, params: SamplingParams, n: int) -> Tensor:
    """Final tokens of many canvases of three positions; the last id is the mask."""
    sampler = SAMPLERS[params.sampler].make(n, n - 1, ())
    batch = CanvasBatch.of([([0] * 3 * CHAINS, [True] * 3 * CHAINS, params)])
    batch = sampler.begin(batch)
    for _ in range(params.calls):
        batch = take_step(sampler, network, batch).batch
    return batch.tokens


def explicit_chains(
    network: Neighbours, n: int, calls: int, posterior: Callable[[int, Tensor, Tensor], Tensor]
) -> list[Tensor]:
    """The reference loop from all masks, run twice: ``posterior`` (call, p, z) over the vocabulary
    and torch's own multinomial.
    """
    runs = []
    for seed in (0, 1):
        g = torch.Generator().manual_seed(seed)
        x = torch.full((CHAINS * 3,), n - 1)
        for i in range(calls):
            logits = network.trunk(x, torch.empty(0), torch.arange(len(x))).double()
            logits[:, n - 1] = -torch.inf
            q = posterior(i, logits.softmax(-1), x)
            x = torch.multinomial(q, 1, generator=g)[:, 0]
        runs.append(x)
    return runs


def assert_same_chains(ours: Tensor, runs: list[Tensor], n: int) -> None:
    """Total variation to one reference run must be at most 1.25 times that of a second reference
    run plus four standard errors (measured spread of such distances: about 1 %). False alarm below
    1e-4.
    """
    first, second = (joint(run, n) for run in runs)
    between = (first - second).abs().sum() / 2
    distance = (first - joint(ours, n)).abs().sum() / 2
    assert distance <= 1.25 * between + 4 * (n**3 / CHAINS) ** 0.5 / 100
