"""The LLaDA architecture against the official modelling code, and packing against itself."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from models.attention import bucket_length
from models.errors import UnsupportedConfig
from models.families.llada import LLaDA, LLaDAConfig


@pytest.fixture(scope="module")
def official(golden):
    file = golden("llada_tiny_kv4")
    prefix = "weights."
    weights = {k[len(prefix) :]: t for k, t in file.tensors.items() if k.startswith(prefix)}
    model = LLaDA(LLaDAConfig.from_dict(file.meta["config"]))
    model.load_state_dict(weights)
    return model.requires_grad_(False), file.tensors


def packed(model: LLaDA, sequences: list[Tensor]) -> list[Tensor]:
    """Hidden states of several sequences in one pass."""
    lengths = [len(s) for s in sequences]
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    return list(model.trunk(torch.cat(sequences), offsets).split(lengths))


def test_logits_are_the_official_ones(official):
    model, t = official
    for row, hidden in enumerate(packed(model, list(t["input_ids"]))):
        torch.testing.assert_close(model.head(hidden), t["logits"][row], rtol=0, atol=5e-5)


def test_left_padding_is_a_shorter_sequence(official):
    """Rotary positions are relative: masking the padding equals leaving it out."""
    model, t = official
    visible = t["attention_mask"].bool()
    sequences = [ids[mask] for ids, mask in zip(t["input_ids"], visible, strict=True)]
    for row, hidden in enumerate(packed(model, sequences)):
        theirs = t["logits_with_mask"][row][visible[row]]
        torch.testing.assert_close(model.head(hidden), theirs, rtol=0, atol=5e-5)


def test_bfloat16_stays_close(official):
    model, t = official
    half = LLaDA(model.config).to(torch.bfloat16)
    half.load_state_dict(model.state_dict())
    half.make_rope(None)
    for row, hidden in enumerate(packed(half, list(t["input_ids"]))):
        difference = (half.head(hidden).float() - t["logits_bf16"][row].float()).abs()
        assert difference.max() < 0.07  # two units in the last place of values up to 8


def test_a_sequence_gets_the_same_bits_in_any_company(tiny_llada):
    g = torch.Generator().manual_seed(0)
    lengths = [1, 5, 16, 33, 64, 65, 100, 130, 192, 200, 256]
    sequences = [torch.randint(500, (n,), generator=g) for n in lengths]
    alone = [packed(tiny_llada, [s])[0] for s in sequences]
    for _ in range(8):
        some = torch.randperm(len(lengths), generator=g)[: torch.randint(2, 11, (1,), generator=g)]
        for i, hidden in zip(some, packed(tiny_llada, [sequences[i] for i in some]), strict=True):
            assert torch.equal(hidden, alone[i])
    rows = torch.randperm(256, generator=g)
    whole = tiny_llada.head(alone[-1])
    for count in (16, 17, 40, 200):
        picked = tiny_llada.head(alone[-1][rows[:count]])
        assert torch.equal(picked, whole[rows[:count]])


def test_asking_for_some_rows_gives_the_bits_of_all(tiny_llada):
    g = torch.Generator().manual_seed(1)
    tokens, offsets = torch.randint(500, (300,), generator=g), torch.tensor([0, 100, 170, 300])
    whole = tiny_llada.trunk(tokens, offsets)
    for count in (0, 1, 7, 16, 33, 250):
        rows = torch.randperm(300, generator=g)[:count]
        assert torch.equal(tiny_llada.trunk(tokens, offsets, rows), whole[rows])


def config(**changes):
    base = {
        "model_type": "llada",
        "d_model": 48,
        "n_layers": 2,
        "n_heads": 6,
        "n_kv_heads": 6,
        "mlp_hidden_size": 64,
        "vocab_size": 500,
        "embedding_size": 500,
        "mask_token_id": 499,
        "eos_token_id": 1,
        "max_sequence_length": 256,
    }
    return {k: v for k, v in (base | changes).items() if v is not ...}


@pytest.fixture(scope="module")
def tiny_llada():
    torch.manual_seed(1)
    return LLaDA(LLaDAConfig.from_dict(config())).requires_grad_(False)


def test_grouped_queries_are_repeated_heads():
    """Two key-value heads for six query heads equal six heads whose weights repeat."""
    torch.manual_seed(2)
    grouped = LLaDA(LLaDAConfig.from_dict(config(n_kv_heads=2))).requires_grad_(False)
    full = LLaDA(LLaDAConfig.from_dict(config()))
    state = dict(grouped.state_dict())
    for name in state:
        if "k_proj" in name or "v_proj" in name:
            heads = state[name].view(2, 8, 48)
            state[name] = heads.repeat_interleave(3, dim=0).reshape(48, 48)
    full.load_state_dict(state)
    tokens, offsets = torch.arange(20), torch.tensor([0, 20])
    torch.testing.assert_close(grouped.trunk(tokens, offsets), full.trunk(tokens, offsets))


def test_tied_weights_share_the_embedding():
    model = LLaDA(LLaDAConfig.from_dict(config(weight_tying=True)))
    assert "model.transformer.ff_out.weight" not in model.state_dict()
    hidden = torch.randn(3, 48)
    wte = model.get_parameter("model.transformer.wte.weight")
    assert torch.equal(model.head(hidden), hidden @ wte.T)


def test_the_full_size_state_dict_has_the_published_keys():
    """Names and shapes of LLaDA-8B, on the meta device."""
    published = config(
        d_model=4096, n_layers=32, n_heads=32, n_kv_heads=32, mlp_hidden_size=12288
    ) | {"vocab_size": 126464, "embedding_size": 126464, "mask_token_id": 126336}
    with torch.device("meta"):
        state = LLaDA(LLaDAConfig.from_dict(published)).state_dict()
    assert len(state) == 291
    assert sum(t.numel() for t in state.values()) == 8_015_581_184
    assert state["model.transformer.blocks.31.ff_out.weight"].shape == (4096, 12288)
    assert state["model.transformer.ff_out.weight"].shape == (126464, 4096)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"model_type": "llama"}, "model_type"),
        ({"num_experts": 64}, "LLaDA-MoE"),
        ({"alibi": True}, "alibi"),
        ({"activation_type": "gelu"}, "activation_type"),
        ({"include_bias": True}, "include_bias"),
        ({"n_heads": 5}, "n_heads"),
        ({"n_kv_heads": 4}, "n_kv_heads"),
        ({"n_layers": 0}, "n_layers"),
        ({"n_layers": "2"}, "n_layers"),
        ({"mask_token_id": 500}, "mask_token_id"),
        ({"mask_token_id": ...}, "mask_token_id"),
    ],
)
def test_configs_that_cannot_be_built_are_refused_by_name(changes, word):
    with pytest.raises(UnsupportedConfig, match=word):
        LLaDAConfig.from_dict(json.loads(json.dumps(config(**changes), default=lambda _: None)))


def test_buckets():
    lengths = torch.tensor([1, 64, 65, 128, 129, 192, 193, 256, 257, 384, 385, 4096])
    expected = [64, 64, 128, 128, 192, 192, 256, 256, 384, 384, 512, 4096]
    assert bucket_length(lengths).tolist() == expected
