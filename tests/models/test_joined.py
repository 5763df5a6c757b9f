"""Linear layers joined into one: the same results, names and memory."""

from __future__ import annotations

import copy
import weakref
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models import joined
from models.base import DenoiserModule
from models.bundled import BUNDLED
from models.checkpoints.describe import described
from models.checkpoints.filling import fill
from models.checkpoints.load import _settled, load_network
from models.families.decoder import MLP
from models.float8 import Float8Linear, narrow_layer
from models.joined import Joined, JoinedFloat8, JoinedLinear, join, join_layer, products
from models.packed import PackedLinear
from models.registry import FAMILIES

CPU = torch.device("cpu")


def network(name: str) -> DenoiserModule:
    spec = FAMILIES[name]
    fields = {"model_type": spec.published_type, **spec.random_config, **spec.shapes["tiny"]}
    torch.manual_seed(0)
    built = spec.build(spec.read_config(fields, None)).requires_grad_(False).eval()
    for part in built.modules():
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.normal_(part.bias)
    return built


def logits(model: DenoiserModule, rows: int | None = None) -> Tensor:
    g = torch.Generator().manual_seed(1)
    tokens, offsets = torch.randint(300, (100,), generator=g), torch.tensor([0, 33, 100])
    wanted = None if rows is None else torch.arange(rows)
    with torch.inference_mode():
        return model.head(model.trunk(tokens, offsets, wanted))


def groups(model: nn.Module) -> dict[str, Joined]:
    return {name: part for name, part in model.named_modules() if isinstance(part, Joined)}


def memory(model: nn.Module) -> int:
    """Bytes of all storages that hold parameters and buffers."""
    tensors = [*model.parameters(), *model.buffers()]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("llada", 4),
        ("dream", 4),
        ("sdar", 4),
        ("fast_dllm_v2", 4),
        ("llada_moe", 3),
        ("llada2_moe", 3),
        ("diffusion_gemma", 4),
        ("dit", 0),
    ],
)
def test_joined_network_gives_the_same_bits(name, count):
    model = network(name)
    before, state, size = logits(model), copy.deepcopy(model.state_dict()), memory(model)
    join(model)
    assert len(groups(model)) == count
    for rows in (None, 20):
        torch.testing.assert_close(logits(model, rows), before[:rows], rtol=0, atol=1e-6)
    assert torch.equal(logits(model), before)
    after = model.state_dict()
    assert list(after) == list(state) and all(torch.equal(after[n], state[n]) for n in state)
    assert memory(model) == size


def test_stories_joined_gives_the_same_bits():
    model = load_network(BUNDLED / "stories")
    before = logits(model)
    join(model)
    assert len(groups(model)) == 12
    assert torch.equal(logits(model), before)


def test_weights_that_are_loaded_again_reach_the_joined_layers():
    model, other = network("dream"), network("dream")
    state = {name: tensor + 0.01 for name, tensor in other.state_dict().items()}
    other.load_state_dict(state)
    join(model)
    model.load_state_dict(state)
    assert torch.equal(logits(model), logits(other))


def test_a_copy_is_joined_too():
    model = network("llada")
    join(model)
    assert torch.equal(logits(copy.deepcopy(model)), logits(model))


@pytest.mark.parametrize("bias", [True, False])
def test_float8_layers_keep_entries_and_scales(bias):
    torch.manual_seed(0)
    layers = [nn.Linear(64, n, bias=bias, dtype=torch.bfloat16) for n in (96, 32, 32)]
    narrow = [Float8Linear(layer.requires_grad_(False)) for layer in layers]
    y = torch.randn(20, 64).bfloat16()
    expected = products(y, None, narrow)
    whole = JoinedFloat8(narrow)
    assert all(map(torch.equal, products(y, whole, narrow), expected))
    assert all(map(torch.equal, products(y, None, narrow), expected))
    start = whole.entries.untyped_storage().data_ptr()
    assert all(x.entries.untyped_storage().data_ptr() == start for x in narrow)
    assert not whole.state_dict()


def test_float8_checkpoint_is_joined_while_it_is_loaded():
    path = BUNDLED / "stories"
    plain, model = described(path).built.network, described(path).built.network
    found = described(path).found
    fill(plain, found, CPU, torch.bfloat16, settle=narrow_layer)
    fill(model, found, CPU, torch.bfloat16, settle=partial(_settled, [narrow_layer, join_layer]))
    for each in (plain, model):
        each.ready(CPU)
    assert {type(part) for part in groups(model).values()} == {JoinedFloat8}
    assert len(groups(model)) == 12 and not groups(plain)
    assert torch.equal(logits(model), logits(plain))


def test_checkpoint_is_joined_while_it_is_loaded():
    path = BUNDLED / "stories"
    read = described(path)
    fill(read.built.network, read.found, CPU, torch.float32, settle=join_layer)
    read.built.network.ready(CPU)
    assert len(groups(read.built.network)) == 12
    assert torch.equal(logits(read.built.network), logits(load_network(path)))


def test_one_group_at_a_time_is_there_twice(monkeypatch):
    model = network("llada")
    owners: list[Any] = [m for m in model.modules() if hasattr(m, "joins")]
    groups = [(owner, layers) for owner in owners for layers in owner.joins.values()]
    old = [
        [weakref.ref(getattr(owner, layer).weight) for layer in layers] for owner, layers in groups
    ]
    alive: list[int] = []

    class Watched(JoinedLinear):
        def __init__(self, layers):
            alive.append(sum(any(ref() is not None for ref in refs) for refs in old))
            super().__init__(layers)

    monkeypatch.setitem(joined.KINDS, nn.Linear, Watched)
    join(model)
    assert alive == [4, 3, 2, 1]


def test_layers_that_differ_in_kind_stay_apart():
    def of(change) -> MLP:
        part = MLP(64, 96).requires_grad_(False)
        change(part)
        join(part)
        return part

    def packed(part: MLP) -> None:
        part.register_module("gate_proj", PackedLinear(part.gate_proj.weight))
        part.register_module("up_proj", PackedLinear(part.up_proj.weight))

    def narrow(part: MLP) -> None:
        part.up_proj = Float8Linear(part.up_proj.bfloat16())  # pyright: ignore[reportAttributeAccessIssue]

    def one_bias(part: MLP) -> None:
        part.gate_proj = nn.Linear(64, 96)

    def two_types(part: MLP) -> None:
        part.gate_proj.bfloat16()

    def no_values(part: MLP) -> None:
        part.up_proj.to("meta")

    def divided(part: MLP) -> None:
        class Share(Tensor):
            pass

        part.up_proj.weight = nn.Parameter(part.up_proj.weight.data.as_subclass(Share), False)

    for change in (packed, narrow, one_bias, two_types, no_values, divided):
        assert of(change).gate_up is None, change.__name__
    assert isinstance(of(lambda part: None).gate_up, JoinedLinear)
