"""Checkpoint folders made into published ones in fp8, layout by layout."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.checkpoints.weights import INDEX

GREATEST = 448.0
"""Of the numbers of e4m3."""
KEPT = re.compile(r"embed_tokens|word_embeddings|wte|lm_head|ff_out\.weight$|gate\.weight|router")
"""Names of matrices that publishers leave as they are: embeddings, head and routers."""
BLOCK = (24, 32)
"""Rows and columns of blocks; most sizes of the tiny networks are no multiples."""


def compressed(strategy: str, **weights: Any) -> dict[str, Any]:
    """A ``quantization_config`` of compressed-tensors."""
    kind = {"num_bits": 8, "type": "float", "symmetric": True, "dynamic": False}
    tokens = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "token"}
    group = {
        "targets": ["Linear"],
        "weights": {**kind, "strategy": strategy, "block_structure": None, **weights},
        "input_activations": {**tokens, "dynamic": True},
        "output_activations": None,
        "format": "float-quantized",
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "quantization_status": "compressed",
        "sparsity_config": {},
        "transform_config": {},
    }


@dataclass(frozen=True)
class Layout:
    """A published layout.

    Attributes:
        config: its ``quantization_config``.
        block: rows and columns of a scale, of a matrix of so many.
        suffix: of the names of scales.
        shape: of scales as they are stored, from that of the grid; None keeps it.
        scale_type: of scales.
    """

    config: dict[str, Any]
    block: Callable[[int, int], tuple[int, int]]
    suffix: str = "_scale"
    shape: Callable[[tuple[int, ...]], tuple[int, ...]] | None = None
    scale_type: torch.dtype = torch.float32


LAYOUTS = {
    "channel": Layout(compressed("channel"), lambda n, k: (1, k), scale_type=torch.bfloat16),
    "tensor": Layout(compressed("tensor"), lambda n, k: (n, k), shape=lambda grid: (1,)),
    "group": Layout(compressed("block", block_structure=list(BLOCK)), lambda n, k: BLOCK),
    "block": Layout(
        {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": list(BLOCK)},
        lambda n, k: BLOCK,
        suffix="_scale_inv",
    ),
    "scalar": Layout(
        {"quant_method": "fp8", "activation_scheme": "static"},
        lambda n, k: (n, k),
        shape=lambda grid: (),
    ),
    "fbgemm": Layout(
        {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}, lambda n, k: (1, k)
    ),
}


def rounded(matrix: Tensor, layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
    """[N, K] -> entries in e4m3, scales of the grid, and what they stand for in fp32."""
    rows, columns = layout.block(*matrix.shape)
    entries = torch.empty(matrix.shape, dtype=torch.float8_e4m3fn)
    meant = torch.empty(matrix.shape)
    scales = []
    for top in range(0, matrix.shape[0], rows):
        line = []
        for left in range(0, matrix.shape[1], columns):
            here = (slice(top, top + rows), slice(left, left + columns))
            part = matrix[here].float()
            scale = (part.abs().max().clamp(min=1e-12) / GREATEST).to(layout.scale_type)
            scaled = (part / scale.float()).clamp(-GREATEST, GREATEST)
            entries[here] = scaled.to(torch.float8_e4m3fn)
            meant[here] = entries[here].float() * scale.float()
            line.append(scale)
        scales.append(torch.stack(line))
    return entries, torch.stack(scales), meant


def quantise(
    folder: Path,
    layout: Layout,
    made: Path,
    plain: Path,
    *,
    split_experts: bool = False,
    more: dict[str, Tensor] | None = None,
) -> None:
    """Write the weights of a folder in fp8, and the same in fp32.

    Args:
        folder: with one file of weights.
        layout: of the first.
        made: the folder in fp8.
        plain: the folder with what its numbers stand for.
        split_experts: store stacked matrices of experts one by one.
        more: further tensors of the first.
    """
    stored = load_file(folder / "model.safetensors")
    narrow: dict[str, Tensor] = {}
    wide: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        if tensor.dim() < 2 or KEPT.search(name):
            narrow[name] = tensor
            wide[name] = tensor.float()
        elif tensor.dim() == 2:
            narrow |= _named(name, tensor, layout, wide)
        elif split_experts:
            stem, _, last = name.rpartition(".")
            for e, matrix in enumerate(tensor):
                halves = matrix.chunk(2) if last == "gate_up_proj" else (matrix,)
                names = ("gate_proj", "up_proj") if last == "gate_up_proj" else ("down_proj",)
                for one, half in zip(names, halves, strict=True):
                    narrow |= _named(f"{stem}.{e}.{one}.weight", half, layout, wide)
        else:
            parts = [rounded(matrix, layout) for matrix in tensor]
            entries, scales, meant = (torch.stack(each) for each in zip(*parts, strict=True))
            narrow |= {name: entries, name + layout.suffix: scales}
            wide[name] = meant
    for place, tensors in ((made, {**narrow, **(more or {})}), (plain, wide)):
        shutil.copytree(folder, place, dirs_exist_ok=True)
        save_file({n: t.contiguous() for n, t in tensors.items()}, place / "model.safetensors")
    change_config(made, quantization_config=layout.config)


def _named(name: str, matrix: Tensor, layout: Layout, wide: dict[str, Tensor]) -> dict[str, Tensor]:
    entries, scales, meant = rounded(matrix, layout)
    wide[name] = meant
    if layout.shape is not None:
        scales = scales.reshape(layout.shape(tuple(scales.shape)))
    return {name: entries, name + layout.suffix: scales}


def change_config(folder: Path, **fields: Any) -> None:
    """Change fields of a folder's ``config.json``."""
    held = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**held, **fields}))


def change_weights(folder: Path, **changes: Tensor | None) -> None:
    """Replace tensors of a folder's one file, or remove them."""
    held = load_file(folder / "model.safetensors")
    held = {name: tensor for name, tensor in {**held, **changes}.items() if tensor is not None}
    save_file(held, folder / "model.safetensors")


def scatter(folder: Path) -> None:
    """Store the scales of a folder in another file than the weights."""
    held = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    files = {"one.safetensors": {}, "two.safetensors": {}}
    for name, tensor in held.items():
        files["two.safetensors" if "_scale" in name else "one.safetensors"][name] = tensor
    for file, tensors in files.items():
        save_file(tensors, folder / file)
    placed = {name: file for file, tensors in files.items() for name in tensors}
    (folder / INDEX).write_text(json.dumps({"weight_map": placed}))
