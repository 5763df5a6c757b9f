"""Kernels in Triton's interpreter, on a CPU.

``test_interpreted.py`` runs these tests in a process of its own, as Triton decides whether it
interprets when it is imported. In fp32 rotation and residual are exact, and the rest is within
rounding. The interpreter rounds bfloat16 toward zero, so results in it are about the right ones.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from fusion import choice
from fusion.choice import Draw
from models.base import RMSNorm, Transformer
from models.families.dit import DiT
from models.joined import join
from models.kernels import gate, modulate, norm, rope
from models.registry import FAMILIES
from tests.conftest import load_golden
from tests.models.families.test_dit_image import official
from tests.support import kernels

FLOAT32 = Draw(torch.device("cpu"), torch.float32)
BFLOAT16 = Draw(torch.device("cpu"), torch.bfloat16)
IN_FLOAT32 = kernels.norms() | kernels.ropes() | kernels.gates()
IN_FLOAT32 |= kernels.modulations(torch.float32)
IN_BFLOAT16 = kernels.norms() | kernels.ropes() | kernels.gates()
IN_BFLOAT16 |= kernels.modulations(torch.bfloat16)


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def deviation(found: Tensor, expected: Tensor) -> float:
    """The greatest, in units of the greatest entry."""
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    return float((found.double() - expected.double()).abs().max() / expected.double().abs().max())


@pytest.mark.parametrize("case", IN_FLOAT32)
def test_kernels_in_float32(case: str):
    pairs = list(IN_FLOAT32[case](FLOAT32))
    assert all(deviation(*pair) <= 5e-7 for pair in pairs)
    exact = pairs if case.startswith("rope") and case.endswith("None") else []
    exact += pairs[:1] if case.startswith("norm") else []
    assert all(torch.equal(*pair) for pair in exact)


@pytest.mark.parametrize("case", IN_BFLOAT16)
def test_kernels_in_bfloat16(case: str):
    """Three roundings at most, each off by less than a unit in the last place."""
    assert all(deviation(*pair) <= 3 * 2.0**-7 for pair in IN_BFLOAT16[case](BFLOAT16))


def test_kernels_take_parts_of_rows_and_write_nothing_beside_them():
    room = FLOAT32(9, 48)
    around, weight, x = room.clone(), RMSNorm(48, 1e-5), FLOAT32(3, 48)
    h, y = norm._kernel(room[3:6], x, weight)
    assert torch.equal(h, around[3:6] + x) and torch.equal(room[3:6], h)
    assert torch.equal(room[:3], around[:3]) and torch.equal(room[6:], around[6:])
    assert deviation(y, weight(h)) <= 5e-7
    vectors = FLOAT32(3, 6, 48)
    gate1, gain, shift = vectors[:, 1], vectors[:, 3], vectors[:, 5]
    room = around.clone()
    found = modulate._kernel(room[3:6], (x, gate1), gain, shift, torch.float32)
    expected = modulate._plain(around[3:6], (x, gate1), gain, shift, torch.float32)
    assert all(deviation(*pair) <= 5e-7 for pair in zip(found, expected, strict=True))
    assert torch.equal(room[:3], around[:3]) and torch.equal(room[6:], around[6:])
    joined = FLOAT32(4, 5 * 16 + 3)
    q, k = joined[:, 1:49].unflatten(1, (3, 16)), joined[:, 49:81].unflatten(1, (2, 16))
    cos, sin = FLOAT32(4, 1, 5), FLOAT32(4, 1, 5)
    turned, plain = (f(q, k, cos, sin, None) for f in (rope._kernel, rope._plain))
    assert all(map(torch.equal, turned, plain))
    assert all(x.is_contiguous() for x in turned)
    assert deviation(gate._kernel(q[:, 0], q[:, 2]), gate._plain(q[:, 0], q[:, 2])) <= 5e-7


def test_no_rows_are_no_work():
    h, y = norm._kernel(FLOAT32(0, 48), FLOAT32(0, 48), RMSNorm(48, 1e-5))
    assert h.shape == y.shape == (0, 48)


def network(name: str) -> Transformer:
    """A small one; random, with joined layers."""
    spec = FAMILIES[name]
    fields = {"model_type": spec.published_type, **spec.random_config, **spec.shapes["tiny"]}
    torch.manual_seed(0)
    built = spec.build(spec.read_config(fields, None))
    assert isinstance(built, Transformer)
    for part in built.modules():
        if isinstance(part, RMSNorm):
            nn.init.normal_(part.weight, 1, 0.2)
        elif isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=0.1)
    built.requires_grad_(False).eval()
    join(built)
    return built


def passed(model: Transformer) -> Tensor:
    """Hidden states of some rows of three sequences."""
    g = torch.Generator().manual_seed(1)
    tokens, offsets = torch.randint(40, (18,), generator=g), torch.tensor([0, 4, 12, 18])
    labels = torch.tensor([1, 4, 0]) if model.classes else None
    return model.trunk(tokens, offsets, torch.tensor([0, 3, 9, 17]), labels)


@pytest.mark.parametrize(
    ("name", "layers", "launches"),
    [
        ("llada", 2, {"add_norm": 5, "rope": 2, "swiglu": 2}),
        ("dream", 2, {"add_norm": 5, "rope": 2, "swiglu": 2}),
        ("sdar", 2, {"add_norm": 5, "rope": 2, "swiglu": 2}),
        ("llada2_moe", 3, {"add_norm": 7, "rope": 3, "swiglu": 3}),  # two are of shared experts
        ("dit", 2, {"add_modulate": 5, "rope": 2}),
    ],
)
def test_network_by_kernels_is_that_by_torch(monkeypatch, name, layers, launches):
    model: Transformer
    if name == "dit":
        model = official(load_golden("dit_image_tiny"), 40)
        assert isinstance(model, DiT)
        model.fold()
    else:
        model = network(name)
    expected = passed(model)
    kernels.on_cpu(monkeypatch)
    assert deviation(passed(model), expected) <= 5e-6  # kernels are compared on the way
    assert all(choice._agree.values()) and not choice._warned
    counted: dict[str, int] = {}
    for module in (norm, rope, gate, modulate):
        run = module.launch

        def launch(kernel, *args, run=run, **options):
            counted[kernel] = counted.get(kernel, 0) + 1
            run(kernel, *args, **options)

        monkeypatch.setattr(module, "launch", launch)
    passed(model)
    assert counted == launches, layers
