"""The families of networks by name, and which of them a ``config.json`` or weights ask for."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from models.base import DenoiserModule
from models.checkpoints.meta_init import without_values
from models.errors import UnsupportedConfig
from models.families import (
    diffusion_gemma,
    dit,
    dream,
    fast_dllm_v2,
    llada,
    llada2,
    llada_moe,
    sdar,
    sdar_moe,
    unet,
)
from models.family import FamilyConfig, FamilySpec, Fields, Shapes

FAMILIES: Mapping[str, FamilySpec] = {
    "llada": llada.FAMILY,
    "dit": dit.FAMILY,
    "unet": unet.FAMILY,
    "llada_moe": llada_moe.FAMILY,
    "llada2_moe": llada2.FAMILY,
    "dream": dream.FAMILY,
    "sdar": sdar.FAMILY,
    "sdar_moe": sdar_moe.FAMILY,
    "fast_dllm_v2": fast_dllm_v2.FAMILY,
    "diffusion_gemma": diffusion_gemma.FAMILY,
}
"""A further family is a module in ``models/families`` and an entry here. The first that matches is
taken.
"""
UNNAMED = "dit"
"""The family of weights that no config describes and no tensor tells."""


class Built(NamedTuple):
    """A network on the meta device, with its family and config."""

    spec: FamilySpec
    config: FamilyConfig
    network: DenoiserModule


def build(config: Fields, shapes: Shapes | None) -> Built:
    """The network that a ``config.json`` asks for, on the meta device.

    Args:
        config: its fields.
        shapes: of the weights by plain name, where there are any.

    Raises:
        UnsupportedConfig: no family that is known, or a network that cannot be built. The message
            names the field.
    """
    spec = family_of(config)
    if spec is None:
        raise UnsupportedConfig(f"model_type is {config.get('model_type')!r}: neither {_known()}")
    with without_values(), _buildable():
        sizes = spec.read_config(config, shapes)
        return Built(spec, sizes, spec.build(sizes))


def family_of(config: Fields) -> FamilySpec | None:
    """The family that a ``config.json`` asks for, if it is known."""
    return next((spec for spec in FAMILIES.values() if spec.matches(config)), None)


def named_config(config: Fields, name: str) -> Fields:
    """A ``config.json`` and what the name of its repository tells beside it."""
    spec = family_of(config)
    return config if spec is None else {**spec.told_by_name(name), **config}


def family_of_tensors(names: Collection[str]) -> FamilySpec:
    """The family of weights without a config."""
    found = (spec for spec in FAMILIES.values() if spec.signs(names))
    return next(found, FAMILIES[UNNAMED])


def _known() -> str:
    """Families, in the words of an error: those with fields of their own last."""
    named = [repr(s.published_type) for s in FAMILIES.values() if not s.described_by]
    other = [
        f"a {spec.title} ({', '.join(spec.described_by)})"
        for spec in FAMILIES.values()
        if spec.described_by
    ]
    return " nor ".join(dict.fromkeys([*named, *other]))


@contextmanager
def _buildable() -> Iterator[None]:
    """Report sizes that torch cannot even describe as a fault of the config."""
    try:
        yield
    except (ArithmeticError, MemoryError, RuntimeError, TypeError) as error:
        raise UnsupportedConfig(f"its sizes cannot be built ({str(error)[:200]})") from None
