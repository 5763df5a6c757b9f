"""Checkpoints on disk: check, then load. Only safetensors are opened, and no code comes from a
folder.

A checkpoint is a folder in Hugging Face's layout: ``config.json``, ``model.safetensors``,
``tokenizer.json``, and ``generation_config.json`` with what requests get when they do not choose.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from models.bundled import BUNDLED, bundled_names
from models.denoiser import ModelInfo
from models.llada import LLaDA, LLaDAConfig, UnsupportedConfig
from models.tokenizer import TextTokenizer

DType = Literal["auto", "float32", "bfloat16"]


class CheckpointError(Exception):
    """A checkpoint that cannot be served; the message is one line."""


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model with all that belongs to it.

    Attributes:
        model: the network (a ``Denoiser``), in evaluation mode on its device.
        tokenizer: its text side.
        info: facts.
        defaults: ``generation_config.json`` as it stands.
        device: where the weights are.
    """

    model: LLaDA
    tokenizer: TextTokenizer
    info: ModelInfo
    defaults: dict[str, Any]
    device: torch.device


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
    try:
        config = LLaDAConfig.from_dict(_json(path / "config.json"))
    except UnsupportedConfig as error:
        raise CheckpointError(f"{path}: {error}") from None
    defaults = _json(path / "generation_config.json", required=False)
    tokenizer_path = path / "tokenizer.json"
    if not tokenizer_path.is_file():
        raise CheckpointError(f"{path}: tokenizer.json is missing")
    try:
        tokenizer = TextTokenizer.load(tokenizer_path)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{path}: the tokenizer has {tokenizer.vocab_size} ids, the model {config.vocab_size}"
        )
    with torch.device("meta"):
        model = LLaDA(config)
    _fill(model, path / "model.safetensors", where, kind)
    model.make_rope(where)
    info = ModelInfo(
        name=path.resolve().name,
        family="llada",
        parameters=sum(p.numel() for p in model.parameters()),
        vocab_size=config.vocab_size,
        mask_id=config.mask_token_id,
        eos_id=config.eos_token_id,
        max_length=config.max_sequence_length,
        dtype=str(kind).removeprefix("torch."),
    )
    return Checkpoint(model.eval(), tokenizer, info, defaults, where)


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


def _json(path: Path, required: bool = True) -> dict[str, Any]:
    if not path.is_file():
        if required:
            raise CheckpointError(f"{path.parent}: {path.name} is missing")
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return value


def _fill(model: LLaDA, path: Path, device: torch.device, dtype: torch.dtype) -> None:
    """Put the file's tensors into the model after checking every name and shape."""
    if not path.is_file():
        raise CheckpointError(f"{path.parent}: {path.name} is missing")
    expected = model.state_dict()
    try:
        with safe_open(str(path), "pt") as file:
            names = set(file.keys())
            if missing := sorted(expected.keys() - names):
                raise CheckpointError(f"{path}: {len(missing)} tensors missing, first {missing[0]}")
            if extra := sorted(names - expected.keys()):
                raise CheckpointError(f"{path}: {len(extra)} unknown tensors, first {extra[0]}")
            state: dict[str, Tensor] = {}
            for name, slot in expected.items():
                shape = list(file.get_slice(name).get_shape())
                if shape != list(slot.shape):
                    raise CheckpointError(f"{path}: {name} is {shape}, expected {list(slot.shape)}")
                state[name] = file.get_tensor(name).to(device, dtype)
                if not bool(state[name].isfinite().all()):
                    raise CheckpointError(f"{path}: {name} holds values that are not finite")
    except SafetensorError as error:
        raise CheckpointError(f"{path}: {error}") from None
    model.load_state_dict(state, assign=True)
    model.requires_grad_(False)
