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
from models.checkpoints.describe import read_tokenizer
from models.errors import CheckpointError, UnsupportedConfig
from models.files import read_json
from models.progress import SILENT, Progress, Work

STD = 0.02


def parse_shape(text: str, family: str = "llada", tokenizer: Path | None = None) -> dict[str, Any]:
    """``"llada-8b"``, ``"tiny,n_layers=4"`` or ``"d_model=64,n_layers=2,…"`` -> config fields.

    Args:
        text: names of shapes, and fields.
        family: its name in ``models.registry``.
        tokenizer: a checkpoint folder whose vocabulary and ids go before those of named shapes.

    Raises:
        CheckpointError: naming what is not understood.
    """
    ids = {} if tokenizer is None else _ids(tokenizer)
    spec = registry.FAMILIES[family]
    if (inner := spec.sizes_in) and ids:
        named = {n: {**s, inner: {**s[inner], **ids}} for n, s in spec.shapes.items()}
        return {inner: ids, **parse_fields(text, named)}
    named = {name: {**shape, **ids} for name, shape in spec.shapes.items()}
    return {**ids, **parse_fields(text, named)}


def _ids(folder: Path) -> dict[str, int]:
    """Vocabulary, mask and end of a checkpoint folder, as fields of ``config.json``; none where it
    has no ``config.json``.

    Raises:
        CheckpointError: a config that is damaged or not supported.
    """
    if not (raw := read_json(folder / "config.json", required=False)):
        return {}
    try:
        sizes = registry.build(raw, None).config
    except UnsupportedConfig as error:
        raise CheckpointError(f"{folder}: {error}") from None
    found = {
        "vocab_size": sizes.vocab_size,
        "mask_token_id": sizes.mask_token_id,
        "eos_token_id": sizes.eos_token_id,
    }
    return {name: value for name, value in found.items() if value is not None}


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
        is_field = name and is_field
        if not is_field and name in named:
            fields |= named[name]
        elif is_field:
            try:
                field, _, inner = name.partition(".")
                known = json.loads(value)
                outer = fields.get(field)
                outer = outer if isinstance(outer, dict) else {}
                fields[field] = {**outer, inner: known} if inner else known
            except (ValueError, RecursionError):  # no JSON, thousands of digits, nested deeply
                raise CheckpointError(f"{what}: {value!r} is no value for {name}") from None
        else:
            words = f"neither FIELD=VALUE nor {', '.join(named)}" if named else "not FIELD=VALUE"
            raise CheckpointError(f"{what}: {part!r} is {words}")
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
    progress: Progress = SILENT,
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
        progress: observes it.

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

    size = dtype.itemsize * sum(slot.numel() for slot in model.stored().values())
    with progress.of(Work(folder.absolute().name, "writing", "written", size)):
        weights.write(drawn(), folder, shard_bytes, progress=progress)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    ratio = 0.0 if spec.masks_only else spec.defaults.get("mixing_ratio", 0.1)
    steps = {} if "steps" in spec.defaults else {"steps": 32}
    defaults = {**steps, "sampler": spec.random_sampler, "mixing_ratio": ratio}
    (folder / "generation_config.json").write_text(json.dumps(defaults, indent=2) + "\n")
    if tokenizer is not None:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(tokenizer / name, folder / name)
