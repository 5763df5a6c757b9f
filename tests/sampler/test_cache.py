"""Keys and values that are kept between steps."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from models.cache import Segments
from models.families.llada import LLaDA
from models.families.llada_config import LLaDAConfig
from sampler import make_params
from sampler.cache import MODES, NOTHING
from sampler.params import InvalidParam
from sampler.step import take_step
from sampler.transition import OPS
from tests.sampler.settings import KINDS, SOME_KINDS, canvas
from tests.support.caching import begun, stepped
from tests.support.effort import count

VOCAB, MASK = 64, 63
APPROXIMATE = [mode for mode in MODES if mode != "none"]
WITHOUT_OFFICIAL = [kind for kind in KINDS if "official" not in kind]


def network_of(block_length: int | None = None, slots: int = 8192) -> LLaDA:
    torch.manual_seed(3)
    config = LLaDAConfig.from_dict(
        {
            "model_type": "llada",
            "d_model": 64,
            "n_layers": 3,
            "n_heads": 4,
            "n_kv_heads": 2,
            "mlp_hidden_size": 96,
            "vocab_size": VOCAB,
            "embedding_size": VOCAB,
            "max_sequence_length": 256,
            "rope_theta": 10_000.0,
            "rms_norm_eps": 1e-5,
            "weight_tying": False,
            "mask_token_id": MASK,
            "eos_token_id": 1,
        }
    )
    network = LLaDA(config)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.25)
    network.block_length = block_length
    network.reserve(slots)
    return network.eval()


def mixture(kinds, count: int, seed: int, **params) -> list:
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        kind = rng.choice(kinds)
        tokens, editable, chosen = canvas(
            kind, rng, VOCAB, rng.randrange(1, 40), rng.choice([8, 24, 40])
        )
        found.append((tokens, editable, chosen.changed(**params)))
    return found


def states(network, canvases, first: int = 0) -> list[list[list[int]]]:
    """The states of each canvas; canvases of one sampler."""
    sampler, batch = begun(network, MASK, canvases, first)
    lengths = batch.lengths.tolist()
    steps = [r.batch.tokens.split(lengths) for r in stepped(network, sampler, batch)]
    return [[state[i].tolist() for state in steps] for i in range(len(canvases))]


PAIRS = [
    (kind, mode)
    for i, kind in enumerate(k for k in SOME_KINDS if k in WITHOUT_OFFICIAL)
    for j, mode in enumerate(APPROXIMATE)
    if (i + j) % count(len(APPROXIMATE), 1) == 0
]
"""Some kinds, each with one mode in turn, in ``make test``, all with all in ``test-all``."""


@pytest.mark.parametrize(("kind", "mode"), PAIRS)
def test_interval_of_one_step_gives_the_tokens_of_no_cache(kind, mode):
    network, plain = network_of(), mixture([kind], 3, 5)
    cached = [(t, e, p.changed(cache=mode, cache_interval=1)) for t, e, p in plain]
    assert states(network, cached) == states(network, plain)


@pytest.mark.parametrize("kind", [k for k in SOME_KINDS if k in WITHOUT_OFFICIAL])
def test_block_causal_cache_gives_the_tokens_of_whole_passes(kind):
    network = network_of(block_length=8)
    canvases = mixture([kind], 3, 6)
    sampler, batch = begun(network, MASK, canvases)
    lengths = batch.lengths.tolist()
    cached = stepped(network, sampler, batch)
    whole = stepped(network, sampler, replace(batch, cache=None, held=None))
    for kept, read in zip(cached, whole, strict=True):
        assert kept.batch.tokens.split(lengths)[0].equal(read.batch.tokens.split(lengths)[0])
        assert kept.batch.tokens.equal(read.batch.tokens)
        assert kept.change.confidence.equal(read.change.confidence)


NAMED = [
    (name, mode)
    for i, name in enumerate(["topk", "threshold", "dream", "ancestral", "remdm", "gidd"])
    for j, mode in enumerate([*APPROXIMATE, "causal"])
    if (i + j) % count(3, 1) == 0
]
"""Each sampler with some of the modes in ``make test``, each mode with some of the samplers."""


@pytest.mark.parametrize(("name", "mode"), NAMED)
def test_cached_canvas_gets_the_same_tokens_alone_and_in_company(name, mode):
    network = network_of(8 if mode == "causal" else None)
    kinds = [kind for kind in WITHOUT_OFFICIAL if kind.split()[0] == name]
    rng = random.Random(name + mode)
    chosen = {} if mode == "causal" else {"cache": mode}
    canvases = mixture(kinds, count(3, 5), rng.randrange(999), **chosen)
    if mode != "causal":
        other = rng.choice(["none", *APPROXIMATE])
        t, e, p = canvases[1]
        canvases[1] = t, e, p.changed(cache=other, cache_interval=None if other == "none" else 3)
    together = states(network, canvases)
    for each, found in zip(canvases, together, strict=True):
        assert states(network, [each], first=rng.randrange(4000)) == [found]


@pytest.mark.parametrize("mode", [*APPROXIMATE, "causal"])
def test_no_slot_that_is_read_holds_keys_of_another_token(mode):
    """Keys of the first layer depend on token and position alone."""
    network, other = network_of(8 if mode == "causal" else None), network_of()
    for seed in range(count(2, 20)):
        rng = random.Random(seed)
        chosen = {"cache": mode, "cache_interval": rng.choice([None, 4])}
        canvases = mixture(
            [rng.choice(WITHOUT_OFFICIAL)], 3, seed, **({} if mode == "causal" else chosen)
        )
        assert checked(network, other, canvases) > 100


def test_tokens_refined_outside_the_window_are_run_though_nothing_asks_about_them():
    """Every other step refines tokens of earlier blocks; the next one asks about masks alone."""
    network, other = network_of(), network_of()
    refine = tuple([0, 6] * 12)
    params = make_params(
        "topk", steps=24, block_length=8, cache="dual", topk_uniform=refine, temperature=1.3
    )
    canvases = [([5] * 9 + [0] * 48, [False] * 9 + [True] * 48, params.changed(seed=1))] * 3
    sampler, batch = begun(network, MASK, canvases)
    outside = 0
    for result in stepped(network, sampler, batch):
        block = batch.block[result.change.rows // 57] * 8 + 9
        refined = result.change.op == OPS.index("refine")
        outside += int((refined & (result.change.rows % 57 < block)).sum())
        batch = result.batch
    assert outside > 10
    assert checked(network, other, canvases) > 100


def checked(network: LLaDA, other: LLaDA, canvases) -> int:
    """Compare the slots that each step reads with a whole pass; returns how many were read."""
    assert network.slab is not None
    sampler, batch = begun(network, MASK, canvases)
    read = 0
    while not bool(batch.finished.all()):
        before, result = batch, take_step(sampler, network, batch)
        ids, host, batch = before.tokens.numpy(), before.host, result.batch
        assert before.cache is not None and batch.held is not None
        at = before.cache.start.numpy()[host.canvas.numpy()] + host.position.numpy()
        ran = (result.forwards > 0).numpy()[host.canvas.numpy()]
        used = ran & (batch.held != NOTHING)
        assert (batch.held[used] == ids[used]).all()
        fresh = keys_of(other, before)
        assert network.slab.keys[0][at[used]].equal(fresh[used])
        read += used.sum()
        network.slab.keys[0][at[batch.held == NOTHING]] = torch.nan  # nothing else is read
        network.slab.values[0][at[batch.held == NOTHING]] = torch.nan
    return read


def keys_of(network: LLaDA, batch) -> torch.Tensor:
    """Keys of the first layer of all canvases, each run as a whole."""
    lengths = batch.lengths.numpy()
    segments = Segments(lengths, batch.host.position.numpy(), lengths.cumsum() - lengths, lengths)
    offsets = torch.tensor([0, *lengths.cumsum()])
    with torch.inference_mode():
        network.trunk(batch.tokens, offsets, segments=segments)
    assert network.slab is not None
    return network.slab.keys[0][: len(batch.tokens)]


def test_cache_of_compat_official_is_refused():
    with pytest.raises(InvalidParam, match="cache is not for compat official"):
        make_params("topk", compat="official", cache="dual")
