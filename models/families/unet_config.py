"""Sizes of a U-Net, as ``config.json`` says them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from models.errors import UnsupportedConfig
from models.images.layout import ImageShape

CIFAR10 = ImageShape(32, 32, 3, "bytes", 256)
UNET_SHAPES: dict[str, dict[str, Any]] = {
    "cifar10": {},
    "tiny": {
        "ch": 32,
        "ch_mult": [1, 2],
        "num_res_blocks": 1,
        "image": {"height": 8, "width": 8, "channels": 3, "tokens": "bytes", "levels": 256},
    },
}
"""Fields of ``config.json``, by the name of the shape."""


@dataclass(frozen=True)
class UNetConfig:
    """The fields of ``config.json`` that shape the network; those of the published CIFAR-10 models
    need not be said.

    Attributes:
        vocab_size: N: bytes, the mask and ids that never occur.
        mask_token_id: id of the mask.
        ch: channels of the finest scale.
        ch_mult: channels of each scale, in units of ``ch``.
        num_res_blocks: of each scale on the way down.
        attention_scale: the scale that has attention.
        num_classes: labels.
        image: the images that it makes.
        eos_token_id: None: an image does not end early.
    """

    vocab_size: int = 259
    mask_token_id: int = 256
    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 2, 2)
    num_res_blocks: int = 2
    attention_scale: int = 1
    num_classes: int = 10
    image: ImageShape = CIFAR10
    eos_token_id: None = None

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> UNetConfig:
        """Read a ``config.json``.

        Raises:
            UnsupportedConfig: a field that cannot be built. The message names it.
        """
        for field in ("time_conditioning", "fix_logistic"):
            if raw.get(field):
                raise UnsupportedConfig(f"{field} = {raw[field]!r} is not supported, only false")
        names = cls.__dataclass_fields__.keys() - {"eos_token_id"}
        fields: dict[str, Any] = {n: raw[n] for n in names if raw.get(n) is not None}
        if "image" in fields:
            fields["image"] = ImageShape.from_dict(fields["image"])
        mult = fields.get("ch_mult", cls.ch_mult)
        if not isinstance(mult, list | tuple) or not 1 <= len(mult) <= 8:
            raise UnsupportedConfig(f"ch_mult must be a list of integers, got {mult!r}")
        fields["ch_mult"] = tuple(mult)
        config = cls(**fields)
        config.check()
        return config

    def to_dict(self) -> dict[str, Any]:
        """The fields for a ``config.json``."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def check(self) -> None:
        """Refuse shapes that cannot be built.

        Raises:
            UnsupportedConfig: naming the field.
        """
        counts = {"vocab_size": self.vocab_size, "ch": self.ch, "num_classes": self.num_classes}
        counts |= {"num_res_blocks": self.num_res_blocks}
        counts |= {f"ch_mult[{i}]": mult for i, mult in enumerate(self.ch_mult)}
        for field, value in counts.items():
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1 << 20:
                raise UnsupportedConfig(f"{field} must be a positive integer, got {value!r}")
        if self.num_res_blocks > 64:
            raise UnsupportedConfig(f"num_res_blocks is {self.num_res_blocks}, at most 64")
        # group norms cut channels, also those of two scales together, into 32 groups or width / 4
        if self.ch % 32:
            raise UnsupportedConfig("ch must be a multiple of 32")
        for field, value in (
            ("mask_token_id", self.mask_token_id),
            ("attention_scale", self.attention_scale),
        ):
            least = self.vocab_size if field == "mask_token_id" else len(self.ch_mult)
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < least:
                raise UnsupportedConfig(f"{field} must lie between 0 and {least - 1}")
        if self.image.tokens != "bytes":
            raise UnsupportedConfig(f"image.tokens is {self.image.tokens!r}, a U-Net's are 'bytes'")
        side = 2 ** (len(self.ch_mult) - 1)
        if self.image.height % side or self.image.width % side:
            raise UnsupportedConfig(f"image: height and width must be multiples of {side}")
        if self.image.levels > self.mask_token_id:
            raise UnsupportedConfig("image.levels: the mask must lie behind them")
