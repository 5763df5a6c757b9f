"""Seeded random checkpoints of any shape, for benchmarks and tests without published weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models import weights
from models.llada import LLaDA, LLaDAConfig, UnsupportedConfig
from models.weights import CheckpointError

STD = 0.02
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
"""Shapes by name; other values of ``config.json`` may be given on top."""


def parse_shape(text: str) -> dict[str, Any]:
    """``"llada-8b"``, ``"tiny,n_layers=4"`` or ``"d_model=64,n_layers=2,…"`` -> config fields.

    Raises:
        CheckpointError: naming what is not understood.
    """
    fields: dict[str, Any] = {}
    for part in text.split(","):
        name, is_field, value = part.strip().partition("=")
        if not is_field and name in SHAPES:
            fields |= SHAPES[name]
        elif is_field:
            try:
                fields[name] = json.loads(value)
            except json.JSONDecodeError:
                raise CheckpointError(f"shape: {value!r} is no value for {name}") from None
        else:
            raise CheckpointError(f"shape: {part!r} is neither FIELD=VALUE nor {', '.join(SHAPES)}")
    return fields


def write_random(
    folder: Path,
    shape: Mapping[str, Any],
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.bfloat16,
    tokenizer: Path | None = None,
    shard_bytes: int = weights.SHARD_BYTES,
) -> None:
    """Write a LLaDA checkpoint folder: norms are 1, the rest normal with deviation 0.02.

    Each tensor is drawn on its own from (seed, its place), so memory holds one shard.

    Args:
        folder: made if it is not there; must be empty.
        shape: fields of ``config.json``.
        seed: fixes the weights.
        dtype: of the weights.
        tokenizer: a checkpoint folder to take the tokenizer from.
        shard_bytes: size of a shard.

    Raises:
        CheckpointError: a shape that cannot be built, or a folder that is not empty.
    """
    config = {"model_type": "llada", "rope_theta": 500_000.0, "rms_norm_eps": 1e-5, **shape}
    try:
        with torch.device("meta"):
            model = LLaDA(LLaDAConfig.from_dict(config))
    except UnsupportedConfig as error:
        raise CheckpointError(f"shape: {error}") from None
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise CheckpointError(f"{folder} is not empty")

    def drawn() -> Iterator[tuple[str, Tensor]]:
        for place, (name, slot) in enumerate(model.state_dict().items()):
            if slot.ndim == 1:
                yield name, torch.ones(slot.shape, dtype=dtype)
            else:
                g = torch.Generator().manual_seed(seed * 1_000_003 + place)
                yield name, (STD * torch.randn(slot.shape, generator=g)).to(dtype)

    weights.write(drawn(), folder, shard_bytes)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    defaults = {"steps": 32, "sampler": "topk", "mixing_ratio": 0.1}
    (folder / "generation_config.json").write_text(json.dumps(defaults, indent=2) + "\n")
    if tokenizer is not None:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(tokenizer / name, folder / name)
