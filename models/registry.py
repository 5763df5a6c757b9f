"""Which network a ``config.json`` asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from models.checkpoints.meta_init import without_values
from models.errors import UnsupportedConfig
from models.families.dit import DiT
from models.families.dit_config import DiTConfig, stored_sizes
from models.families.llada import LLaDA, LLaDAConfig
from models.families.unet import UNet
from models.families.unet_config import UNetConfig

AnyNetwork = LLaDA | DiT | UNet
DIT_TYPES = ("dit", "xdlm", "mdlm", "udlm")
"""Values of ``model_type`` that name a DiT; third parties have published under their own."""


def build(config: Mapping[str, Any], shapes: Mapping[str, Sequence[int]] | None) -> AnyNetwork:
    """The network that a ``config.json`` asks for, on the meta device.

    Args:
        config: its fields.
        shapes: of the weights by plain name, where there are any; a DiT must agree with them.

    Raises:
        UnsupportedConfig: no architecture of ours, or one that cannot be built. The message names
            the field.
    """
    kind = config.get("model_type")
    with without_values(), _buildable():
        if kind == "llada":
            sizes = LLaDAConfig.from_dict(config)
            if shapes is not None and sizes.n_layers > len(shapes):
                raise UnsupportedConfig(
                    f"n_layers is {sizes.n_layers}: more than there are weights"
                )
            return LLaDA(sizes)
        if asks_for_dit(config):
            sizes = None if shapes is None else stored_sizes(shapes)
            return DiT(DiTConfig.from_dict(config, sizes))
        if kind == "unet":
            return UNet(UNetConfig.from_dict(config))
    raise UnsupportedConfig(
        f"model_type is {kind!r}: neither 'llada' nor 'unet' nor a DiT (hidden_dim, n_blocks)"
    )


@contextmanager
def _buildable() -> Iterator[None]:
    """Sizes that torch cannot even describe are the config's fault."""
    try:
        yield
    except (ArithmeticError, MemoryError, RuntimeError, TypeError) as error:
        raise UnsupportedConfig(f"its sizes cannot be built ({str(error)[:200]})") from None


def asks_for_dit(config: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` is a DiT's."""
    return config.get("model_type") in DIT_TYPES or {"hidden_dim", "n_blocks"} <= config.keys()
