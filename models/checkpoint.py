"""Checkpoints on disk: check, then load. Only safetensors are opened, and no code comes from a
folder.

A checkpoint is a folder in Hugging Face's layout: ``config.json``, ``model.safetensors`` or
shards with their index, ``tokenizer.json``, and ``generation_config.json`` with what requests get
when they do not choose.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from models import weights
from models.bundled import BUNDLED, bundled_names
from models.denoiser import ModelInfo
from models.llada import LLaDA, LLaDAConfig, UnsupportedConfig
from models.tokenizer import TextTokenizer
from models.weights import CheckpointError, read_json

DType = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model with all that belongs to it.

    Attributes:
        model: the network (a ``Denoiser``), in evaluation mode on its device.
        text: its tokenizer; a folder without one serves token ids only.
        info: facts.
        defaults: ``generation_config.json`` as it stands.
        device: where the weights are.
    """

    model: LLaDA
    text: TextTokenizer | None
    info: ModelInfo
    defaults: dict[str, Any]
    device: torch.device

    @property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer.

        Raises:
            CheckpointError: the checkpoint has none.
        """
        if self.text is None:
            raise CheckpointError(f"{self.info.name} has no tokenizer.json")
        return self.text


def find(name_or_path: str) -> Path:
    """The folder of a bundled checkpoint's name, or the path itself.

    Raises:
        CheckpointError: neither.
    """
    if name_or_path in bundled_names():
        return BUNDLED / name_or_path
    path = Path(name_or_path)
    if path.is_dir():
        return path
    bundled = ", ".join(bundled_names())
    raise CheckpointError(f"no checkpoint at {name_or_path!r}; bundled ones: {bundled}")


def load(path: Path, device: str = "cpu", dtype: DType = "auto") -> Checkpoint:
    """Load a checkpoint folder.

    Args:
        path: the folder.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: of the weights; ``auto`` is float32 on a CPU (bitwise reproducible) and bfloat16 on
            CUDA.

    Raises:
        CheckpointError: anything missing, malformed or not supported, in one line.
    """
    where = _device(device)
    kind = _dtype(dtype, where)
    model, text, info, defaults = _described(path)
    weights.fill(model, path, where, kind)
    model.make_rope(where)
    info = replace(info, dtype=str(kind).removeprefix("torch."))
    return Checkpoint(model.eval(), text, info, defaults, where)


def inspect(path: Path) -> tuple[ModelInfo, dict[str, Any]]:
    """Facts and defaults of a checkpoint folder, by its files' headers; no weights are read.

    Raises:
        CheckpointError: as ``load``, but for the values of the weights.
    """
    model, _, info, defaults = _described(path)
    weights.check(path, model.state_dict())
    return replace(info, dtype=weights.stored_dtype(path)), defaults


def _described(path: Path) -> tuple[LLaDA, TextTokenizer | None, ModelInfo, dict[str, Any]]:
    """Everything but the weights and their type; the model is on the meta device."""
    try:
        config = LLaDAConfig.from_dict(read_json(path / "config.json"))
    except UnsupportedConfig as error:
        raise CheckpointError(f"{path}: {error}") from None
    defaults = read_json(path / "generation_config.json", required=False)
    text = _tokenizer(path / "tokenizer.json", config.vocab_size)
    with torch.device("meta"):
        model = LLaDA(config)
    info = ModelInfo(
        name=path.resolve().name,
        family="llada",
        parameters=sum(p.numel() for p in model.parameters()),
        vocab_size=config.vocab_size,
        mask_id=config.mask_token_id,
        eos_id=config.eos_token_id,
        max_length=config.max_sequence_length,
        dtype="",
    )
    return model, text, info, defaults


def _tokenizer(path: Path, vocab_size: int) -> TextTokenizer | None:
    if not path.is_file():
        return None
    try:
        tokenizer = TextTokenizer.load(path)
    except ValueError as error:
        raise CheckpointError(f"{path.parent}: {error}") from None
    if tokenizer.vocab_size > vocab_size:
        raise CheckpointError(
            f"{path.parent}: the tokenizer has {tokenizer.vocab_size} ids, the model {vocab_size}"
        )
    return tokenizer


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise CheckpointError(f"unknown device {name!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise CheckpointError("no CUDA device is available")
    return device


def _dtype(name: DType, device: torch.device) -> torch.dtype:
    if name == "float32" or (name == "auto" and device.type == "cpu"):
        return torch.float32
    if device.type == "cpu" and not cpu_has_fast_bfloat16():
        raise CheckpointError("this CPU has no bfloat16 arithmetic; float32 is faster on it")
    return torch.bfloat16


def cpu_has_fast_bfloat16() -> bool:
    """Whether matrix products in bfloat16 run on instructions of their own."""
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16") or found.get("bf16"))
