"""Seeded random checkpoints of any shape, for benchmarks and tests without published weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models import registry
from models.checkpoints import weights
from models.checkpoints.load import read_tokenizer
from models.errors import CheckpointError, UnsupportedConfig

STD = 0.02
FAMILIES = ("llada", "dit", "unet")
SHAPES: dict[str, dict[str, Any]] = {
    "llada-8b": {
        "d_model": 4096,
        "n_layers": 32,
        "n_heads": 32,
        "n_kv_heads": 32,
        "mlp_hidden_size": 12288,
        "vocab_size": 126464,
        "mask_token_id": 126336,
        "eos_token_id": 126081,
        "max_sequence_length": 4096,
    },
    "tiny": {
        "d_model": 64,
        "n_layers": 2,
        "n_heads": 4,
        "n_kv_heads": 4,
        "mlp_hidden_size": 128,
        "vocab_size": 512,
        "mask_token_id": 511,
        "eos_token_id": 1,
        "max_sequence_length": 512,
    },
}
"""LLaDA's shapes by name; other values of ``config.json`` may be given on top."""


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
"""A DiT's, likewise; ``owt`` has the ids of gpt2, ``lm1b`` those of bert, ``imagenet`` codes of
LlamaGen's tokenizer; ``tiny-image`` makes digits of 8 grey levels.
"""

UNET_SHAPES: dict[str, dict[str, Any]] = {
    "cifar10": {},
    "tiny": {
        "ch": 32,
        "ch_mult": [1, 2],
        "num_res_blocks": 1,
        "image": {"height": 8, "width": 8, "channels": 3, "tokens": "bytes", "levels": 256},
    },
}
"""A U-Net's, likewise."""


def parse_shape(text: str, family: str = "llada") -> dict[str, Any]:
    """``"llada-8b"``, ``"tiny,n_layers=4"`` or ``"d_model=64,n_layers=2,…"`` -> config fields.

    Raises:
        CheckpointError: naming what is not understood.
    """
    return parse_fields(text, {"llada": SHAPES, "dit": DIT_SHAPES, "unet": UNET_SHAPES}[family])


def parse_fields(
    text: str, named: Mapping[str, Mapping[str, Any]], what: str = "shape"
) -> dict[str, Any]:
    """``NAME`` and ``FIELD=VALUE`` with commas between -> fields; ``what`` begins the message.
    ``FIELD.INNER=VALUE`` is a field of an object.

    Raises:
        CheckpointError: naming what is not understood.
    """
    fields: dict[str, Any] = {}
    for part in text.split(","):
        name, is_field, value = part.strip().partition("=")
        if not is_field and name in named:
            fields |= named[name]
        elif is_field:
            try:
                field, _, inner = name.partition(".")
                known = json.loads(value)
                outer = fields.get(field)
                outer = outer if isinstance(outer, dict) else {}
                fields[field] = {**outer, inner: known} if inner else known
            except json.JSONDecodeError:
                raise CheckpointError(f"{what}: {value!r} is no value for {name}") from None
        else:
            names = ", ".join(named) or "nothing else"
            raise CheckpointError(f"{what}: {part!r} is neither FIELD=VALUE nor {names}")
    return fields


def write_random(
    folder: Path,
    shape: Mapping[str, Any],
    *,
    family: str = "llada",
    seed: int = 0,
    dtype: torch.dtype = torch.bfloat16,
    tokenizer: Path | None = None,
    shard_bytes: int = weights.SHARD_BYTES,
) -> None:
    """Write a checkpoint folder: norms are 1, the rest normal with deviation 0.02.

    Each tensor is drawn on its own from (seed, its place), so memory holds one shard.

    Args:
        folder: made if it is not there; must be empty.
        shape: fields of ``config.json``.
        family: one of ``FAMILIES``.
        seed: fixes the weights.
        dtype: of the weights.
        tokenizer: a checkpoint folder to take the tokenizer from.
        shard_bytes: size of a shard.

    Raises:
        CheckpointError: a shape that cannot be built or does not hold the tokenizer, or a folder
            that is not empty.
    """
    rest = {"rope_theta": 500_000.0, "rms_norm_eps": 1e-5} if family == "llada" else {}
    config = {"model_type": family, **rest, **shape}
    try:
        model = registry.build(config, None)
    except UnsupportedConfig as error:
        raise CheckpointError(f"shape: {error}") from None
    if tokenizer is not None:
        read_tokenizer(tokenizer, model.config.vocab_size)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise CheckpointError(f"{folder} is not empty")

    def drawn() -> Iterator[tuple[str, Tensor]]:
        for place, (name, slot) in enumerate(model.state_dict().items()):
            if slot.ndim == 1 and not name.endswith((".bias", ".b")):
                yield name, torch.ones(slot.shape, dtype=dtype)
            else:
                g = torch.Generator().manual_seed(seed * 1_000_003 + place)
                yield name, (STD * torch.randn(slot.shape, generator=g)).to(dtype)

    weights.write(drawn(), folder, shard_bytes)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    sampler = "topk" if family == "llada" else "ancestral"
    defaults = {"steps": 32, "sampler": sampler, "mixing_ratio": 0.1}
    (folder / "generation_config.json").write_text(json.dumps(defaults, indent=2) + "\n")
    if tokenizer is not None:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(tokenizer / name, folder / name)
