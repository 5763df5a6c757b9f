"""The hybrid sampler: official vectors, a reference loop in plain Python, properties."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch

from models.families.llada import LLaDA, LLaDAConfig
from sampler import SAMPLERS, make_params
from sampler.batch import CanvasBatch
from sampler.logits.row_reader import readout, row_stats
from sampler.logits.row_requests import RowQuery
from sampler.packing import best_of_each
from sampler.params import InvalidParam, SamplingParams
from sampler.samplers.topk import TopK, TopKParams
from sampler.samplers.topk_plan import absorb_budget, refine_budget, step_plan
from sampler.step import take_step, take_steps
from tests.sampler.toy import MASK, Hashed, N, Placed, Table, behind, states
from tests.support.effort import count
from tests.support.paths import GOLDEN

ENDS = (9, 10)
GREEDY = make_params(sampler="topk", temperature=0.0, mixing_ratio=0.0)


def test_budgets_are_the_official_ones():
    path = GOLDEN / "llada_schedules.json"
    for name, official in json.loads(path.read_text()).items():
        length, steps, ratio = name.split("_")
        absorb = absorb_budget(int(length[1:]), int(steps[1:]))
        assert absorb == official["absorb"]
        assert refine_budget(absorb, float(ratio[1:])) == official["refine"]


@pytest.mark.parametrize("name", ["mdm_s8_b16", "xdm_k01_s4"])
def test_official_runs_state_by_state(golden, name):
    weights, run = golden("llada_tiny_kv4"), golden(f"llada_gen_{name}")
    model = LLaDA(LLaDAConfig.from_dict(weights.meta["config"]))
    model.load_state_dict(
        {k.removeprefix("weights."): t for k, t in weights.tensors.items() if "weights." in k}
    )
    kwargs = run.meta["kwargs"]
    params = GREEDY.changed(
        steps=kwargs["steps"],
        mixing_ratio=kwargs.get("k1", 0.0),
        block_length=kwargs["block_length"],
        compat="official",
    )
    for row, prompt in enumerate(run.tensors["prompt"].tolist()):
        found = states(model, TopK(64, 63), behind(prompt, kwargs["gen_length"], params))
        assert found == run.tensors["x_traj"][:, row].tolist()


def reference_run(network, tokens, editable, params: SamplingParams) -> list[list[int]]:
    """Greedy decoding as ``interoperability.md`` C2 recommends it, one position at a time."""
    own = params.own
    assert isinstance(own, TopKParams)
    x = [MASK if e else t for t, e in zip(tokens, editable, strict=True)]
    spots = [i for i, e in enumerate(editable) if e]
    length = own.block_length or len(spots)
    found, carry = [list(x)], 0
    plan = step_plan(params, len(spots))
    for i in range(params.steps):
        b = plan.block[i]
        active = spots[b * length : (b + 1) * length]
        last = i + 1 == params.steps or plan.block[i + 1] != b
        offsets = torch.tensor([0, len(x)])
        p = network.trunk(torch.tensor(x), offsets, torch.arange(len(x))).clone()
        p[:, MASK] = -torch.inf
        if own.logits_eos_inf:
            p[:, ENDS[0]] = -torch.inf
        guess = p.argmax(-1).tolist()
        if own.confidence_eos_eot_inf:
            p[:, ENDS] = -torch.inf
        p = p.softmax(-1)
        sure = [float(p[j, guess[j]]) for j in range(len(x))]
        masks = [j for j in active if x[j] == MASK]
        later = {
            j for j in masks if any(abs(i - j) <= own.spacing and sure[i] > sure[j] for i in masks)
        }
        masks.sort(key=lambda j: (j in later, -sure[j], j))
        filled = masks if last else masks[: plan.absorb[i]]
        scope = active if own.refine_scope == "block" else spots[: (b + 1) * length]
        wrong = [j for j in scope if x[j] not in (MASK, guess[j]) and sure[j] >= float(p[j, x[j]])]
        budget = plan.refine[i] + carry
        refined = sorted(wrong, key=lambda j: (-sure[j], j))[:budget]
        carry = 0 if last else budget - len(refined)
        for j in (*filled, *refined):
            x[j] = guess[j]
        found.append(list(x))
    return found


def random_canvas(g: torch.Generator, temperature: float = 0.0):
    """A canvas with clamped positions anywhere, and settings that fit it."""

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=g))

    size = number(1, 14)
    editable = (torch.rand(size, generator=g) < 0.7).tolist()
    editable[number(0, size - 1)] = True
    free = sum(editable)
    block = number(1, free)
    steps = -(-free // block) + number(0, 6)
    absorb = "even"
    if number(0, 3) == 0:
        cuts = sorted(number(0, free) for _ in range(steps - 1))
        absorb = tuple(b - a for a, b in zip([0, *cuts], [*cuts, free], strict=True))
    params = make_params(
        sampler="topk",
        steps=steps,
        temperature=temperature,
        mixing_ratio=number(0, 9) / 10,
        block_length=block if number(0, 1) else None,
        refine_scope="block" if number(0, 1) else "generated",
        topk_absorb=absorb,
        logits_eos_inf=number(0, 3) == 0,
        confidence_eos_eot_inf=number(0, 3) == 0,
        spacing=number(1, 5) if number(0, 1) else 0,
        topk_uniform=tuple(number(0, 3) for _ in range(steps)) if number(0, 3) == 0 else "auto",
        seed=number(0, 2**31),
    )
    tokens = torch.randint(MASK, (size,), generator=g).tolist()
    return tokens, editable, params


def test_sampler_equals_a_plain_loop():
    g = torch.Generator().manual_seed(1)
    sampler = TopK(N, MASK, ENDS)
    for i in range(count(60, 180)):
        network, canvas = (Hashed(), Placed())[i % 2], random_canvas(g)
        assert states(network, sampler, canvas) == reference_run(network, *canvas)


def test_the_published_loop_knows_no_spacing():
    """A checkpoint's default gives way; a request that asks for both is refused."""
    network, sampler = Placed(), TopK(N, MASK)
    plain = GREEDY.changed(steps=4, block_length=12)
    run = {
        (compat, spacing): states(
            network, sampler, behind([1, 2], 12, plain.changed(compat=compat, spacing=spacing))
        )
        for compat in ("none", "official")
        for spacing in (0, 3)
    }
    assert run["official", 3] == run["official", 0] and run["none", 3] != run["none", 0]
    assert "spacing" in plain.changed(compat="official").unread()


def test_random_requests_keep_clamped_and_settled_positions():
    """Clamped positions never change, no mask remains, what is settled stays."""
    g = torch.Generator().manual_seed(2)
    network, sampler = Hashed(), TopK(N, MASK, ENDS)
    canvases = [random_canvas(g, temperature=0.7) for _ in range(count(2_000, 10_000))]
    batch = sampler.begin(CanvasBatch.of(canvases))
    clamped = torch.tensor([t for tokens, _, _ in canvases for t in tokens])
    while batch.size:
        before = batch
        result = take_step(sampler, network, batch)
        batch = result.batch
        canvas, position = batch.owner
        assert torch.equal(batch.tokens[~batch.editable], clamped[~batch.editable])
        assert bool((result.settled >= sampler.settled(before)).all())
        fixed = position < sampler.settled(before)[canvas]
        assert torch.equal(batch.tokens[fixed], before.tokens[fixed])
        over = batch.finished
        assert not bool((batch.tokens[over[canvas]] == MASK).any())
        clamped = clamped[~over[canvas]]
        batch = batch.kept(~over)


def test_early_settling():
    """k = 0: the decoded prefix is settled at once; refinement within blocks: block by block."""
    network, sampler = Hashed(), TopK(N, MASK)
    params = GREEDY.changed(steps=6, block_length=4)
    batch = sampler.begin(CanvasBatch.of([behind([1, 2], 12, params)]))
    seen = []
    for _ in range(6):
        result = take_step(sampler, network, batch)
        batch = result.batch
        decoded = [*(batch.tokens == MASK).tolist(), True].index(True)
        assert result.settled.tolist() == [decoded]
        seen.append(decoded)
    assert seen[1] >= 6
    assert seen[-1] == 14

    blocks = params.changed(mixing_ratio=0.5, refine_scope="block")
    batch = sampler.begin(CanvasBatch.of([behind([1, 2], 12, blocks)]))
    seen = []
    for _ in range(6):
        result = take_step(sampler, network, batch)
        batch = result.batch
        seen.append(int(result.settled))
    assert seen == [2, 6, 6, 10, 10, 14]


def test_every_canvas_gets_what_it_gets_alone():
    """Different samplers, steps, k, blocks, temperatures and guidance in one run of the network."""
    torch.manual_seed(0)
    model = LLaDA(LLaDAConfig(32, 2, 4, 2, 48, N, MASK, 0, 64)).eval().requires_grad_(False)
    with_masks = {n: s for n, s in SAMPLERS.items() if not s.params.needs_canvases}
    samplers = {n: spec.make(N, MASK, ENDS) for n, spec in with_masks.items()}
    g = torch.Generator().manual_seed(3)

    def run(groups: dict[str, list]) -> dict[str, list[list[int]]]:
        parts = [(samplers[n], samplers[n].begin(CanvasBatch.of(c))) for n, c in groups.items()]
        for _ in range(max(p.calls for c in groups.values() for _, _, p in c)):
            results = take_steps(model, parts)
            moved = []
            for (sampler, before), result in zip(parts, results, strict=True):
                canvas, _ = before.owner
                done = before.finished[canvas]
                tokens = torch.where(done, before.tokens, result.batch.tokens)
                moved.append((sampler, result.batch.with_tokens(tokens)))
            parts = moved
        return {
            n: [t.tolist() for t in b.tokens.split(b.lengths.tolist())]
            for n, (_, b) in zip(groups, parts, strict=True)
        }

    groups: dict[str, list] = {name: [] for name in samplers}
    for i in range(16):
        tokens, editable, params = random_canvas(g, temperature=0.5 * (i % 3))
        params = params.changed(guidance_scale=1.0 + i % 2)
        if i % 4 > 1:
            name = ["ancestral", "threshold", "gidd", "remdm", "dream"][(i - i // 4 * 2) % 5]
            length = params.own.block_positions(0) or None
            own = {
                "ancestral": {"mixing_ratio": 0.1 * (i % 5)},
                "threshold": {"entropy_bound": 0.5, "block_length": length},
            }
            params = make_params(
                name,
                steps=params.steps,
                seed=params.seed,
                temperature=params.temperature,
                guidance_scale=params.guidance_scale,
                **own.get(name, {}),
            )
        groups[params.sampler].append((tokens, editable, params))
    together = run(groups)
    for name, canvases in groups.items():
        for canvas, tokens in zip(canvases, together[name], strict=True):
            assert run({name: [canvas]})[name] == [tokens]


def test_guidance_pushes_away_from_the_promptless_copy():
    network, sampler = Hashed(), TopK(N, MASK)
    prompt, scale = [3, 5, 7], 2.5

    class Explicit(Hashed):
        """Both copies in one set of logits."""

        def trunk(self, tokens, offsets, rows, labels=None):
            bare = tokens.clone()
            bare[: len(prompt)] = MASK
            with_prompt, without = super().trunk(tokens, offsets, rows), self._bare(bare, rows)
            return without + scale * (with_prompt - without)

        def _bare(self, bare, rows):
            return Hashed.trunk(self, bare, torch.tensor([0, len(bare)]), rows)

    params = GREEDY.changed(steps=4, mixing_ratio=0.3)
    guided = states(network, sampler, behind(prompt, 8, params.changed(guidance_scale=scale)))
    assert guided == states(Explicit(), sampler, behind(prompt, 8, params))
    assert guided != states(network, sampler, behind(prompt, 8, params))


def untold(count: int) -> dict[str, torch.Tensor]:
    return {
        "tell": torch.zeros(count, dtype=torch.bool),
        "written": torch.full((count,), -1),
        "bias_ids": torch.zeros(count, 0, dtype=torch.int64),
        "bias": torch.zeros(count, 0).double(),
    }


def test_probabilities_as_the_model_gave_them():
    g = torch.Generator().manual_seed(4)
    logits = 2 * torch.randn(40, 300, generator=g)
    temperature = torch.tensor([0.0, 0.5, 1.0, 1.7]).double().repeat(10)
    query = RowQuery(
        current=torch.randint(300, (40,), generator=g),
        u=torch.rand(40, generator=g).double(),
        temperature=temperature,
        top_p=torch.tensor([1.0, 0.8]).double().repeat_interleave(20),
        as_model=torch.ones(40, dtype=torch.bool),
        official=torch.zeros(40, dtype=torch.bool),
        entropy=torch.ones(40, dtype=torch.bool),
        no_eos=torch.zeros(40, dtype=torch.bool),
        eos_last=torch.zeros(40, dtype=torch.bool),
        eot_last=torch.zeros(40, dtype=torch.bool),
        guidance_scale=torch.ones(40).double(),
        **untold(40),
    )
    (chunk,) = query.chunks(logits.shape[1])
    stats = row_stats(logits, chunk, mask_id=299)
    p = logits.double().index_fill(1, torch.tensor([299]), -torch.inf).softmax(-1)
    for told, ids in ((stats.p_sample, stats.sample), (stats.p_current, query.current)):
        torch.testing.assert_close(told, p.gather(1, ids[:, None])[:, 0], rtol=1e-5, atol=0)
    entropy = torch.distributions.Categorical(probs=p).entropy()
    torch.testing.assert_close(stats.entropy, entropy, rtol=1e-5, atol=1e-6)
    greedy = temperature == 0
    assert torch.equal(stats.sample[greedy], p[greedy].argmax(-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_published_loop_sees_a_softmax_in_the_type_of_the_logits(dtype):
    """To the last bit, ties included: they decide what is filled first."""
    g = torch.Generator().manual_seed(11)
    logits = (8 * torch.randn(40, 300, generator=g)).to(dtype)
    off = torch.zeros(40, dtype=torch.bool)
    official = torch.arange(40) < 30
    query = RowQuery(
        current=torch.randint(300, (40,), generator=g),
        u=torch.rand(40, generator=g).double(),
        temperature=torch.tensor([0.0, 0.7]).double().repeat(20),
        top_p=torch.ones(40).double(),
        as_model=~off,
        official=official,
        entropy=off,
        no_eos=off,
        eos_last=torch.arange(40) % 3 == 0,
        eot_last=off,
        **untold(40),
    )
    hidden = torch.eye(40, dtype=dtype)
    stats = readout(lambda h: h @ logits, hidden, query.chunks(300), 300, 299, ENDS)
    p = logits.clone()
    p[query.eos_last, ENDS[0]] = -torch.inf
    p[~official, 299] = -torch.inf
    p = p.softmax(-1)
    for told, ids in ((stats.p_sample, stats.sample), (stats.p_current, query.current)):
        expected = p.gather(1, ids[:, None])[:, 0].double()
        assert torch.equal(told[:30], expected[:30])
        torch.testing.assert_close(told[30:], expected[30:], rtol=0.02, atol=1e-6)
    assert dtype == torch.float32 or not torch.equal(stats.p_sample[30:], expected[30:])


def test_the_end_is_never_written_where_it_is_forbidden():
    sampler, canvas = TopK(N, MASK, ENDS), behind([3], 12, GREEDY.changed(steps=6))
    table = torch.zeros(N)
    table[ENDS[0]], table[4] = 5.0, 1.0
    assert states(Table(table), sampler, canvas)[-1] == [3] + 12 * [ENDS[0]]
    without = canvas[2].changed(logits_eos_inf=True)
    assert states(Table(table), sampler, (*canvas[:2], without))[-1] == [3] + 12 * [4]


def test_probabilities_without_the_ends():
    g = torch.Generator().manual_seed(6)
    logits = 3 * torch.randn(60, 40, generator=g)
    logits[:20, 7] = 60.0  # the end token has nearly all there is
    mark = torch.arange(60) % 3
    off = torch.zeros(60, dtype=torch.bool)
    query = RowQuery(
        current=torch.randint(40, (60,), generator=g),
        u=torch.rand(60, generator=g).double(),
        temperature=torch.tensor([0.0, 0.6]).double().repeat(30),
        top_p=torch.ones(60).double(),
        guidance_scale=torch.ones(60).double(),
        as_model=~off,
        official=off,
        entropy=off,
        no_eos=off,
        eos_last=mark > 0,
        eot_last=mark > 1,
        **untold(60),
    )
    (chunk,) = query.chunks(logits.shape[1])
    stats = row_stats(logits, chunk, mask_id=39, ends=(7, 8))
    p = logits.double().index_fill(1, torch.tensor([39]), -torch.inf)
    assert torch.equal(stats.sample[::2], p[::2].argmax(-1))
    p[mark > 0, 7] = -torch.inf
    p[mark > 1, 8] = -torch.inf
    p = p.softmax(-1)
    for told, ids in ((stats.p_sample, stats.sample), (stats.p_current, query.current)):
        expected = p.gather(1, ids[:, None])[:, 0]
        torch.testing.assert_close(told, expected, rtol=1e-4, atol=1e-30)


def test_best_of_each_takes_the_earlier_of_equals():
    g = torch.Generator().manual_seed(5)
    for _ in range(50):
        score = torch.randint(4, (30,), generator=g).double()
        canvas = torch.randint(5, (30,), generator=g).sort().values
        candidate = torch.rand(30, generator=g) < 0.6
        count = torch.randint(6, (5,), generator=g)
        group = torch.where(candidate, canvas, 5)
        chosen, taken = best_of_each(score, group, count)
        assert torch.equal(taken, torch.bincount(group[chosen], minlength=5))
        for b in range(5):
            mine = [i for i in range(30) if canvas[i] == b and candidate[i]]
            best = sorted(mine, key=lambda i: (-float(score[i]), i))[: int(count[b])]
            assert sorted(best) == [i for i in range(30) if canvas[i] == b and chosen[i]]


def test_random_order_is_random_and_seeded():
    network, sampler = Hashed(), TopK(N, MASK)
    params = GREEDY.changed(steps=8, remasking="random", seed=1)

    def order(seed: int) -> list[int]:
        found = states(network, sampler, behind([1], 8, params.changed(seed=seed)))
        return [next(i for i in range(9) if a[i] != b[i]) for a, b in pairwise(found)]

    assert order(1) == order(1)
    assert len({tuple(order(s)) for s in range(8)}) == 8


@pytest.mark.parametrize(
    ("field", "chosen"),
    [
        ("topk_absorb", {"topk_absorb": (1, 2, 3)}),
        ("topk_absorb", {"topk_absorb": (4, 4)}),
        ("topk_absorb", {"topk_absorb": (9, -1, 0)}),
        ("topk_uniform", {"topk_uniform": (1, 1)}),
        ("block_length", {"block_length": 0}),
        ("steps", {"block_length": 2}),
        ("mixing_ratio", {"mixing_ratio": 1.0}),
        ("remasking", {"remasking": "random", "mixing_ratio": 0.1}),
        ("block_length", {"block_length": 5, "compat": "official"}),
        ("guidance_scale", {"guidance_scale": -1.0}),
    ],
)
def test_refusals_name_the_field(field, chosen):
    with pytest.raises(InvalidParam) as refused:
        step_plan(GREEDY.changed(**{"steps": 3, **chosen}), 8)
    assert refused.value.field == field
