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


def parse_shape(text: str, family: str = "llada") -> dict[str, Any]:
    """``"llada-8b"``, ``"tiny,n_layers=4"`` or ``"d_model=64,n_layers=2,…"`` -> config fields.

    Raises:
        CheckpointError: naming what is not understood.
    """
    return parse_fields(text, registry.FAMILIES[family].shapes)


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
        family: its name in ``models.registry``.
        seed: fixes the weights.
        dtype: of the weights.
        tokenizer: a checkpoint folder to take the tokenizer from.
        shard_bytes: size of a shard.

    Raises:
        CheckpointError: a shape that cannot be built or does not hold the tokenizer, or a folder
            that is not empty.
    """
    spec = registry.FAMILIES[family]
    config = {"model_type": spec.published_type, **spec.random_config, **shape}
    try:
        _, sizes, model = registry.build(config, None)
    except UnsupportedConfig as error:
        raise CheckpointError(f"shape: {error}") from None
    if tokenizer is not None:
        read_tokenizer(tokenizer, sizes.vocab_size)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise CheckpointError(f"{folder} is not empty")

    def drawn() -> Iterator[tuple[str, Tensor]]:
        for place, (name, slot) in enumerate(model.stored().items()):
            if slot.ndim == 1 and not name.endswith(("bias", ".b")):
                yield name, torch.ones(slot.shape, dtype=dtype)
            else:
                g = torch.Generator().manual_seed(seed * 1_000_003 + place)
                yield name, (STD * torch.randn(slot.shape, generator=g)).to(dtype)

    weights.write(drawn(), folder, shard_bytes)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    ratio = 0.0 if spec.masks_only else 0.1
    defaults = {"steps": 32, "sampler": spec.random_sampler, "mixing_ratio": ratio}
    (folder / "generation_config.json").write_text(json.dumps(defaults, indent=2) + "\n")
    if tokenizer is not None:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(tokenizer / name, folder / name)
