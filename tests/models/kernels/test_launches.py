"""Kernels that a layer launches on CUDA, counted on a CPU with stand-ins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fusion import choice
from models import base
from models.attention import PackedAttention
from models.base import Transformer
from models.families.dit import DiT
from models.families.dit_config import DiTConfig
from models.families.dream import FAMILY as DREAM
from models.families.llada import LLaDA
from models.families.llada_config import LLaDAConfig
from models.families.sdar import FAMILY as SDAR
from models.family import FamilySpec, Fields
from models.joined import join
from tests.support.kernels import Launches, Operations, on_cpu


def attend(q: Tensor, k: Tensor, v: Tensor, **_: object) -> Tensor:
    """One operation of PyTorch in place of FlashAttention's kernel."""
    return q.relu()


def llada(layers: int) -> Transformer:
    return LLaDA(LLaDAConfig(64, layers, 4, 4, 128, 512, 511, 1, 512))


def built(spec: FamilySpec, fields: Fields) -> Transformer:
    network = spec.build(spec.read_config(fields, None))
    assert isinstance(network, Transformer)
    return network


def dream(layers: int) -> Transformer:
    fields = {**DREAM.shapes["tiny"], **DREAM.random_config, "num_hidden_layers": layers}
    return built(DREAM, fields)


def sdar(layers: int) -> Transformer:
    """With norms of heads."""
    fields = {**SDAR.shapes["tiny"], **SDAR.random_config, "num_hidden_layers": layers}
    return built(SDAR, fields)


def dit(layers: int) -> Transformer:
    fields = {"hidden_dim": 64, "n_blocks": layers, "n_heads": 4, "cond_dim": 16}
    return DiT(
        DiTConfig.from_dict(
            fields
            | {"vocab_size": 100, "model_length": 64, "mask_token_id": 99, "eos_token_id": 1},
            None,
        )
    )


def counted(network: Transformer, launches: Launches) -> Counter[str]:
    """Kernels of a pass in bfloat16."""
    network.requires_grad_(False).to(torch.bfloat16)
    network.ready(torch.device("cpu"))
    join(network)
    tokens, offsets = torch.arange(64), torch.tensor([0, 30, 64])
    with torch.inference_mode():
        network.trunk(tokens, offsets)
        launches.names.clear()
        with Operations() as operations:
            network.trunk(tokens, offsets)
    return operations.names + Counter(launches.names)


@pytest.mark.parametrize("build", [llada, dream, sdar, dit])
def test_a_layer_launches_nine_kernels(monkeypatch, build: Callable[[int], Transformer]):
    """LLaDA: two norms, two products before attention and the gate, rotation, attention, gate, two
    products after them. A DiT has a GELU in place of the gate.
    """
    launches = Launches()
    on_cpu(monkeypatch, launches)
    monkeypatch.setattr(choice, "_compared", lambda *_: True)
    monkeypatch.setattr(
        base, "attention_over", lambda o, r, *_: PackedAttention(o, r, attend, torch.device("cpu"))
    )
    few, more = (counted(build(layers), launches) for layers in (2, 3))
    layer = more - few
    assert layer.total() == 9, layer
    assert layer["relu"] == layer["rope"] == 1
    assert layer["add_norm"] + layer["add_modulate"] == 2


def test_a_layer_of_torch_launches_three_times_as_many(monkeypatch):
    """On CUDA norms are one operation and a product each: 10 fewer than on a CPU."""
    monkeypatch.setattr(
        base, "attention_over", lambda o, r, *_: PackedAttention(o, r, attend, torch.device("cpu"))
    )
    launches = Launches()
    few, more = (counted(llada(layers), launches) for layers in (2, 3))
    assert (more - few).total() > 27 and not launches.names
