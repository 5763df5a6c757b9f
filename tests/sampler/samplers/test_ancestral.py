"""The branch-first sampler is the posterior of eq. 11: exactly, in distribution, and along whole
chains.

False-alarm odds are stated with each statistical test; seeds are fixed, so a pass stays a pass.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from sampler import make_params
from sampler.batch import CanvasBatch
from sampler.noise_kernel import NoiseKernel
from sampler.samplers.ancestral import Ancestral
from sampler.schedules import SCHEDULES, grids
from sampler.step import take_step
from tests.sampler.toy import Neighbours, Table
from tests.support.effort import count, some

N, MASK = 9, 8


def mixture(kernel: NoiseKernel, p, z, alpha_s, alpha_t):
    """(1-L) delta_z + L [a_s p + b_s k Uniform + b_s mu delta_m], densely."""
    n, k = kernel.vocab_size, kernel.mixing_ratio
    reverse = kernel.mixture(z, alpha_s, alpha_t)
    leave = reverse.leave(p.gather(-1, z[..., None])[..., 0])[..., None]
    alpha_s = alpha_s[..., None]
    ids = torch.arange(n)
    mask = (
        torch.zeros(n, dtype=p.dtype)
        if kernel.mask_id is None
        else (ids == kernel.mask_id).double()
    )
    renoised = alpha_s * p + (1 - alpha_s) * (k / n + (1 - k) * mask)
    return (1 - leave) * (ids == z[..., None]).double() + leave * renoised


@given(
    n=st.integers(3, 40),
    k=st.sampled_from([0.0, 1e-3, 0.1, 0.5, 0.9, 1.0]),
    t=st.floats(0.01, 1.0),
    gap=st.floats(0.01, 1.0),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=count(60, 200), deadline=None)
def test_mixture_is_the_posterior(n, k, t, gap, seed):
    g = torch.Generator().manual_seed(seed)
    kernel = NoiseKernel(k, n, n - 1)
    schedule = SCHEDULES["log_linear"]
    p = kernel.suppress_mask(3 * torch.randn(64, n, generator=g, dtype=torch.float64)).softmax(-1)
    z = torch.randint(n, (64,), generator=g)
    alpha_t = schedule.alpha(torch.full((64,), t, dtype=torch.float64))
    alpha_s = schedule.alpha(torch.full((64,), t * (1 - gap), dtype=torch.float64))
    dense = kernel.posterior(p, z, alpha_s, alpha_t)
    assert (mixture(kernel, p, z, alpha_s, alpha_t) - dense).abs().max() < 1e-13
    assert (dense.sum(-1) - 1).abs().max() < 1e-12
    reverse = kernel.mixture(z, alpha_s, alpha_t)
    assert (reverse.leave(p.gather(1, z[:, None])[:, 0]) <= reverse.bound + 1e-12).all()


def test_posterior_is_bayes_by_brute_force():
    """q(z_s | z_t, x) for every s-state and t-state from the forward matrices of eq. 5."""
    for k, mask in ((0.0, 4), (0.3, 4), (1.0, None)):
        kernel = NoiseKernel(k, 5, mask)
        ids = torch.arange(5)
        a_s, a_t = 0.7, 0.35
        noise = kernel.rate(ids).expand(5, 5).double()
        q_s = a_s * torch.eye(5, dtype=torch.float64) + (1 - a_s) * noise  # rows: x -> z_s
        a_ts = a_t / a_s
        q_ts = a_ts * torch.eye(5, dtype=torch.float64) + (1 - a_ts) * noise  # rows: z_s -> z_t
        for x, z in itertools.product(range(4), range(5)):
            joint = q_s[x] * q_ts[:, z]
            if joint.sum() == 0:
                continue  # z cannot be reached from x
            p = torch.nn.functional.one_hot(torch.tensor(x), 5).double()
            ours = kernel.posterior(
                p, torch.tensor(z), torch.tensor(a_s).double(), torch.tensor(a_t).double()
            )
            torch.testing.assert_close(ours, joint / joint.sum(), rtol=1e-6, atol=1e-9)


def one_step_counts(k: float, z: int, logits, step: int, draws: int, **choices) -> torch.Tensor:
    """Histogram of one step from ``draws`` positions that all hold z, through the real step."""
    mask_id = None if choices.pop("udlm", False) else MASK
    sampler = Ancestral(N, mask_id)
    params = make_params(steps=8, mixing_ratio=k, seed=choices.pop("seed", 5), **choices)
    batch = CanvasBatch.of([([z] * draws, [True] * draws, params)])
    for _ in range(step):
        batch = batch.advanced(batch.tokens)
    after = take_step(sampler, Table(logits), batch).batch.tokens
    return torch.bincount(after, minlength=N)


KERNELS = [(0.0, False), (0.1, False), (0.5, False), (1.0, False), (1.0, True)]


STEPS = [
    (schedule, k, udlm, z)
    for i, (k, udlm) in enumerate(KERNELS)
    for j, z in enumerate([MASK, 2])
    for n, schedule in enumerate(["log_linear", "llada"])
    if (i + j + n) % count(2, 1) == 0
]
"""In ``make test`` each kernel and token with one noise schedule in turn."""


@pytest.mark.parametrize(("schedule", "k", "udlm", "z"), STEPS)
def test_one_step_chi_square(schedule, k, z, udlm):
    """Many draws of one step against the explicit posterior. False alarm: 1e-6 in each case."""
    logits = torch.linspace(-2, 2, N)
    kernel = NoiseKernel(k, N, None if udlm else MASK)
    step, draws = 3, count(100_000, 1_000_000)
    alpha_s, alpha_t = SCHEDULES[schedule].grid(torch.tensor(step), torch.tensor(8))
    p = kernel.suppress_mask(logits.double()).softmax(-1)
    expected = kernel.posterior(p, torch.tensor(z), alpha_s, alpha_t) * draws
    counts = one_step_counts(k, z, logits, step, draws, udlm=udlm, noise_schedule=schedule)
    possible = expected > 0
    assert counts[~possible].sum() == 0
    freedom = int(possible.sum()) - 1
    if freedom == 0:
        assert counts[possible] == draws
        return
    statistic = ((counts - expected)[possible].square() / expected[possible]).sum()
    assert chi2.sf(float(statistic), freedom) > 1e-6


def test_temperature_and_top_p_shape_the_guess():
    """Chi-square against the posterior of the sharpened, cut distribution; false alarm 1e-6."""
    logits, draws = torch.linspace(-2, 2, N), count(100_000, 500_000)
    p = NoiseKernel(0.1, N, MASK).suppress_mask(logits.double() / 0.7).softmax(-1)
    order = p.argsort(descending=True)
    keep = order[p[order].cumsum(0) <= 0.8]
    cut = torch.zeros_like(p).index_put((keep,), p[keep])
    alpha_s, alpha_t = SCHEDULES["log_linear"].grid(torch.tensor(2), torch.tensor(8))
    for z in (MASK, 1, 7):
        q = NoiseKernel(0.1, N, MASK).posterior(cut / cut.sum(), torch.tensor(z), alpha_s, alpha_t)
        counts = one_step_counts(0.1, z, logits, 2, draws, temperature=0.7, top_p=0.8)
        assert counts[q == 0].sum() == 0
        expected = q[q > 0] * draws
        statistic = float(((counts[q > 0] - expected).square() / expected).sum())
        assert chi2.sf(statistic, len(expected) - 1) > 1e-6


def test_schedules_and_their_grids():
    """The official grid; the signal that LLaDA-XDLM is trained with, p = (1 - 1e-3) t + 1e-3."""
    t = torch.linspace(0, 1, 7, dtype=torch.float64)
    assert SCHEDULES["log_linear"].alpha(t).sub(1 - (1 - 1e-3) * t).abs().max() < 1e-15
    assert SCHEDULES["llada"].alpha(t).sub(1 - ((1 - 1e-3) * t + 1e-3)).abs().max() < 1e-15
    step, steps = torch.tensor([0, 3, 8, 8]), torch.tensor([8, 8, 8, 9])
    which = torch.tensor([0, 1, 1, 0])
    found = torch.stack(grids(which, step, steps, torch.zeros_like(step), torch.ones(4).double()))
    for i, name in enumerate(["log_linear", "llada", "llada", "log_linear"]):
        alone = SCHEDULES[name].grid(step[i], steps[i])
        assert found[:, i].tolist() == [float(a) for a in alone]
    assert float(SCHEDULES["llada"].grid(step[0], steps[0])[1]) == 0.0
    assert found[0, 2] == 1.0  # noise removal draws the clean guess


def explicit_chain(network, kernel: NoiseKernel, chains: int, steps: int, seed: int):
    """The reference loop: the posterior over the vocabulary, torch's own multinomial."""
    g = torch.Generator().manual_seed(seed)
    n = kernel.vocab_size
    u = torch.rand(chains * 3, generator=g)
    x = kernel.prior(u, torch.randint(n, (chains * 3,), generator=g))
    for i in range(steps + 1):
        alphas = SCHEDULES["log_linear"].grid(torch.tensor(i), torch.tensor(steps))
        logits = network.trunk(x, torch.empty(0), torch.arange(len(x))).double()
        p = kernel.suppress_mask(logits).softmax(-1)
        q = kernel.posterior(p, x, *(a.expand(x.shape) for a in alphas))
        x = torch.multinomial(q, 1, generator=g)[:, 0]
    return x


@pytest.mark.parametrize("k", some([0.1, 0.0, 0.6], 3))
def test_whole_chains(k):
    """Joint distribution of three positions after five steps, against the explicit loop.

    Total variation to one reference run must be at most 1.25 times that of a second reference run
    plus four standard errors (measured spread of such distances: about 1 %). False alarm below
    1e-4.
    """
    n, chains, steps = 5, 30_000, 5
    network, kernel = Neighbours(n, seed=3), NoiseKernel(k, n, n - 1)
    sampler = Ancestral(n, n - 1)
    params = make_params(steps=steps, mixing_ratio=k, seed=11)
    batch = sampler.begin(CanvasBatch.of([([0] * 3 * chains, [True] * 3 * chains, params)]))
    for _ in range(params.calls):
        batch = take_step(sampler, network, batch).batch
    weights = torch.tensor([n * n, n, 1])

    def joint(tokens):
        return torch.bincount((tokens.view(-1, 3) * weights).sum(1), minlength=n**3) / chains

    first, second = (explicit_chain(network, kernel, chains, steps, seed) for seed in (0, 1))
    between = (joint(first) - joint(second)).abs().sum() / 2
    ours = (joint(first) - joint(batch.tokens)).abs().sum() / 2
    assert ours <= 1.25 * between + 4 * (n**3 / chains) ** 0.5 / 100


def test_last_call_modes():
    """Greedy takes the mode everywhere it may; none leaves the canvas; ancestral leaves no mask."""
    logits = torch.linspace(-2, 2, N)
    sampler = Ancestral(N, MASK)

    def final(mode, k):
        params = make_params(steps=2, mixing_ratio=k, noise_removal=mode, seed=1)
        tokens = [MASK] * 50 + [3] * 50
        batch = CanvasBatch.of([(tokens, [True] * 100, params)])
        for _ in range(2):
            batch = batch.advanced(batch.tokens)
        return take_step(sampler, Table(logits), batch).batch.tokens

    mode = 7  # the likeliest id that is no mask
    assert (final("greedy", 0.1) == mode).all()
    assert final("greedy", 0.0).tolist() == [mode] * 50 + [3] * 50  # MDLM keeps its tokens
    assert (final("ancestral", 0.1) != MASK).all()
    assert make_params(steps=2, noise_removal="none").calls == 2


def test_prompt_is_clamped_and_draws_belong_to_the_request():
    """The same request alone and among others: same tokens; fixed positions never change."""
    network = Table(torch.linspace(-1, 1, N))
    sampler = Ancestral(N, MASK)

    def canvas(length, seed, steps, k):
        editable = [i % 3 != 0 for i in range(length)]
        params = make_params(steps=steps, mixing_ratio=k, seed=seed, temperature=0.9, top_p=0.95)
        return ([1] * length, editable, params)

    def run(canvases):
        batch = sampler.begin(CanvasBatch.of(canvases))
        done = {}
        names = list(range(len(canvases)))
        while batch.size:
            batch = take_step(sampler, network, batch).batch
            finished = batch.step >= batch.calls
            for i in torch.nonzero(finished)[:, 0].tolist():
                owner, _ = batch.owner
                done[names[i]] = batch.tokens[owner == i].tolist()
            names = [n for n, f in zip(names, finished.tolist(), strict=True) if not f]
            batch = batch.kept(~finished)
        return done

    requests = [canvas(5 + 3 * i, i - 4, 2 + i, 0.1 * (i % 4)) for i in range(10)]
    together = run(requests)
    for i, request in enumerate(requests):
        assert run([request])[0] == together[i]
        assert all(t == 1 for t, e in zip(together[i], request[1], strict=True) if not e)


def test_skips_rows_and_forwards():
    """Head rows per position over a run match the expectation; idle canvases are not run."""
    calls = {"rows": 0, "trunk": 0}

    class Counting(Table):
        def trunk(self, tokens, offsets, rows, labels=None):
            calls["trunk"] += len(offsets) - 1
            return super().trunk(tokens, offsets, rows)

    network = Counting(torch.linspace(-1, 1, N))
    sampler = Ancestral(N, MASK)
    positions, steps = 4000, 16
    params = make_params(steps=steps, mixing_ratio=0.0, seed=2)
    batch = sampler.begin(CanvasBatch.of([([0] * positions, [True] * positions, params)]))
    for _ in range(params.calls):
        result = take_step(sampler, network, batch)
        batch = result.batch
        calls["rows"] += result.head_rows
    assert calls["rows"] == positions  # k = 0: each position asks exactly once

    short = make_params(steps=64, mixing_ratio=0.0, seed=2)
    calls["trunk"] = 0
    batch = sampler.begin(CanvasBatch.of([([0] * 4, [True] * 4, short)] * 3))
    for _ in range(short.calls):
        batch = take_step(sampler, network, batch).batch
    assert calls["trunk"] <= 3 * 4  # four positions unmask in at most four of 65 calls


def test_a_row_of_nans_fails_alone():
    class Poisoned(Table):
        def trunk(self, tokens, offsets, rows, labels=None):
            return tokens[rows, None].float()

        def head(self, hidden):
            return torch.where(hidden == 3.0, torch.nan, self.logits)

    sampler = Ancestral(N, MASK)
    params = make_params(steps=1, mixing_ratio=0.1, seed=0)
    batch = CanvasBatch.of([([t] * 6, [True] * 6, params) for t in (MASK, 3, MASK)])
    batch = batch.advanced(batch.tokens)  # noise removal asks every row
    result = take_step(sampler, Poisoned(torch.linspace(-1, 1, N)), batch)
    assert result.failed.tolist() == [False, True, False]


def test_start_from_masks_at_any_mixing_ratio():
    sampler = Ancestral(20, 19, ())
    canvas = ([3] * 500, [False] * 100 + [True] * 400)
    tokens = {
        start: sampler.begin(
            CanvasBatch.of([(*canvas, make_params(mixing_ratio=0.5, start=start, seed=1))])
        ).tokens
        for start in ("noise", "masks")
    }
    assert (tokens["masks"][:100] == 3).all() and (tokens["masks"][100:] == 19).all()
    assert 150 < int((tokens["noise"][100:] == 19).sum()) < 260  # 210 expected, 5 sigma
