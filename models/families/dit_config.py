"""Sizes of a DiT: as ``config.json`` says them, and as weights tell them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from models.base import check_positions
from models.errors import UnsupportedConfig
from models.families.adaln import TIME_FEATURES
from models.images.layout import ImageShape

LABELS = "y_embedder.embedding_table.weight"
LARGEST = 1 << 24  # no size of a network is larger
COUNTS = ("vocab_size", "model_length", "hidden_dim", "cond_dim", "n_blocks", "n_heads")


class Vocabulary(NamedTuple):
    """Ids, length and image that the published training runs gave a vocabulary."""

    mask: int
    end: int | None
    length: int
    image: ImageShape | None = None


VOCABULARIES = {
    50258: Vocabulary(mask=50257, end=50256, length=1024),  # gpt2, the mask behind it
    30522: Vocabulary(mask=103, end=101, length=128),  # bert-base-uncased; texts end with [CLS]
    # codes of LlamaGen's tokenizer; mask, an end and one more id behind them, never in images
    16387: Vocabulary(16384, None, 256, ImageShape(16, 16, 3, "vq", 16384, 16)),
}
"""By the number of ids."""


HEADS = {(256, 8): 8, (768, 12): 12, (1024, 24): 16}
"""Heads of the published sizes, by (hidden_dim, n_blocks): weights alone do not tell."""
INV_FREQ = "rotary_emb.inv_freq"


def _dit(
    hidden_dim: int, n_blocks: int, n_heads: int, vocab_size: int, **more: Any
) -> dict[str, Any]:
    sizes = {"hidden_dim": hidden_dim, "n_blocks": n_blocks, "n_heads": n_heads}
    return {"cond_dim": 128, **sizes, "vocab_size": vocab_size, **more}


DIT_SHAPES: dict[str, dict[str, Any]] = {
    "tiny-owt": _dit(256, 8, 8, 50258, model_length=1024),
    "small-owt": _dit(768, 12, 12, 50258, model_length=1024),
    "small-lm1b": _dit(768, 12, 12, 30522, model_length=128),
    "medium-owt": _dit(1024, 24, 16, 50258, model_length=1024),
    "small-imagenet": _dit(768, 12, 12, 16387, model_length=256, num_classes=1000),
    "tiny": _dit(64, 2, 4, 512, model_length=512, mask_token_id=511, eos_token_id=1),
    "tiny-image": _dit(
        64,
        2,
        4,
        9,
        model_length=144,
        mask_token_id=8,
        num_classes=10,
        image={"height": 12, "width": 12, "channels": 1, "tokens": "grey levels", "levels": 8},
    ),
}
"""Fields of ``config.json``, by the name of the shape: ``owt`` has the ids of gpt2, ``lm1b`` those
of bert, ``imagenet`` codes of LlamaGen's tokenizer; ``tiny-image`` makes digits of 8 grey levels.
"""


@dataclass(frozen=True)
class DiTConfig:
    """The fields of ``config.json`` that shape the network.

    Attributes:
        vocab_size: N, the mask included.
        model_length: positions.
        hidden_dim, cond_dim, n_blocks, n_heads: sizes.
        mask_token_id: id of the mask; None for a model of uniform noise alone (UDLM), which says
            ``"mask_token_id": null``. Published vocabularies have one whatever the file says.
        eos_token_id: id that ends a text; None for images.
        num_classes: labels that the network takes; 0 for text.
        image: what the tokens make, if that is an image.
    """

    vocab_size: int
    model_length: int
    hidden_dim: int
    cond_dim: int
    n_blocks: int
    n_heads: int
    mask_token_id: int | None
    eos_token_id: int | None = None
    num_classes: int = 0
    image: ImageShape | None = None

    @classmethod
    def from_dict(
        cls, raw: Mapping[str, Any], stored: Mapping[str, int] | None = None
    ) -> DiTConfig:
        """Read a ``config.json``.

        Args:
            raw: its fields. The ids of the mask and of the end of a text, and the image, may be
                missing where the vocabulary is a published one.
            stored: ``stored_sizes`` of the weights, if there are any. ``cond_dim`` is theirs: the
                published configs have it wrong.

        Raises:
            UnsupportedConfig: a field missing, not buildable, or other than the weights say. The
            message names it.
        """
        for field in ("time_conditioning", "causal_attention"):
            if raw.get(field):
                raise UnsupportedConfig(f"{field} = {raw[field]!r} is not supported, only false")
        fields = {**raw}
        if stored is not None:
            for field in ("vocab_size", "hidden_dim", "n_blocks", "num_classes"):
                said = raw.get(field, stored[field])
                if isinstance(said, bool) or said != stored[field]:
                    raise UnsupportedConfig(
                        f"{field} is {raw[field]!r} in config.json, {stored[field]} in the weights"
                    )
            fields |= stored
        if isinstance(fields.get("image"), Mapping):
            fields["image"] = ImageShape.from_dict(fields["image"])
        size = fields.get("vocab_size")
        if isinstance(size, int) and (known := VOCABULARIES.get(size)):
            usual = {
                "mask_token_id": known.mask,
                "eos_token_id": known.end,
                "image": known.image,
            }
            fields |= {name: value for name, value in usual.items() if raw.get(name) is None}
        optional = {"num_classes", "image"}
        if fields.get("image") is not None:
            optional.add("eos_token_id")
        for name in cls.__dataclass_fields__:
            if name not in fields and name not in optional:
                raise UnsupportedConfig(f"config.json lacks {name!r}")
        config = cls(**{n: fields[n] for n in cls.__dataclass_fields__ if n in fields})
        config.check()
        return config

    def to_dict(self) -> dict[str, Any]:
        """The fields for a ``config.json``; those that only images have, where there is one."""
        return {name: value for name, value in asdict(self).items() if value not in (None, 0)} | {
            "mask_token_id": self.mask_token_id,
            **({} if self.eos_token_id is None else {"eos_token_id": self.eos_token_id}),
        }

    def check(self) -> None:
        """Refuse shapes that cannot be built.

        Raises:
            UnsupportedConfig: naming the field.
        """
        if self.image is not None and not isinstance(self.image, ImageShape):
            raise UnsupportedConfig(f"image must be an object, got {self.image!r}")
        for field, value in asdict(self).items():
            optional = field == "mask_token_id" or (field == "eos_token_id" and self.image)
            if field == "image" or (optional and value is None):
                continue
            least = 1 if field in COUNTS else 0
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not whole or not least <= (value or 0) <= LARGEST:
                kind = "an id" if field.endswith("_id") else f"a positive integer up to {LARGEST}"
                raise UnsupportedConfig(f"{field} must be {kind}, got {value!r}")
        if self.hidden_dim % self.n_heads or (self.hidden_dim // self.n_heads) % 2:
            raise UnsupportedConfig("hidden_dim must be an even multiple of n_heads")
        check_positions("model_length", self.model_length, self.hidden_dim // self.n_heads)
        for field in ("mask_token_id", "eos_token_id"):
            if (getattr(self, field) or 0) >= self.vocab_size:
                raise UnsupportedConfig(f"{field} lies outside the vocabulary")
        if self.image is None:
            return
        if self.image.length != self.model_length:
            raise UnsupportedConfig(
                f"model_length is {self.model_length}, an image has {self.image.length} tokens"
            )
        if self.mask_token_id is not None and self.image.levels > self.mask_token_id:
            raise UnsupportedConfig("image.levels: the mask must lie behind them")


def stored_sizes(shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Sizes of the network whose weights have these names and shapes.

    Raises:
        UnsupportedConfig: not a DiT.
    """
    table = shapes.get("vocab_embed.embedding", ())
    times = shapes.get("sigma_map.mlp.0.weight", ())
    if len(table) != 2 or len(times) != 2 or times[1] != TIME_FEATURES:
        raise UnsupportedConfig("the weights are not a DiT's (vocab_embed, sigma_map)")
    labels = shapes.get(LABELS, (1, 0))
    if len(labels) != 2 or labels[0] < 1:
        raise UnsupportedConfig(f"{LABELS} is {list(labels)}, no table of labels")
    blocks = {found[0] for name in shapes if (found := re.match(r"blocks\.\d+\.", name))}
    return {
        "vocab_size": table[0],
        "hidden_dim": table[1],
        "cond_dim": times[0],
        "n_blocks": len(blocks),
        "num_classes": labels[0] - 1,
    }


def guessed_fields(shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Fields of a DiT's ``config.json`` that the shapes of its weights and its vocabulary tell."""
    sizes = stored_sizes(shapes)
    known = dict(sizes)
    heads = HEADS.get((sizes["hidden_dim"], sizes["n_blocks"]))
    half = shapes.get(INV_FREQ, ())
    if len(half) == 1 and half[0]:
        heads = sizes["hidden_dim"] // (2 * half[0])
    if heads is not None:
        known["n_heads"] = heads
    if sizes["vocab_size"] in VOCABULARIES:
        known["model_length"] = VOCABULARIES[sizes["vocab_size"]].length
    return known
