"""Published checkpoints in fp8: which tensors are scales of which, and of which blocks.

Read are ``quantization_config`` of ``config.json`` and the headers of the weights. Layouts, as the
programs that write and read them have them:

- ``compressed-tensors`` (llm-compressor), formats ``float-quantized`` and ``naive-quantized``:
  ``weight`` in e4m3 and ``weight_scale``, [N, 1] for strategy ``channel``, [1] for ``tensor``, one
  for each block of ``block_structure`` for ``block`` (compressed-tensors,
  ``quantization/lifecycle/initialize.py`` and ``compressors/naive_quantized``);
- ``fp8``: ``weight_scale_inv`` for each block of ``weight_block_size`` (arXiv:2412.19437; a factor,
  in spite of its name), or one scale of the whole matrix where there is no such field (vLLM,
  ``layers/quantization/fp8.py``; transformers, ``integrations/finegrained_fp8.py``);
- ``fbgemm_fp8``: ``weight_scale`` [N, 1] (vLLM, ``layers/quantization/fbgemm_fp8.py``).

Stacked matrices of experts have scales with one more dimension in front and the names
``gate_up_proj_scale_inv``, ``gate_up_proj_scales_inv`` or ``gate_up_proj_scale``. Scales of inputs,
outputs and caches are not used: everything is computed in wider types.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from models.checkpoints.fp8 import DTYPE, Block, grid
from models.checkpoints.weights import ITEMSIZES, Header
from models.errors import CheckpointError, UnsupportedConfig
from models.family import Fields

FIELD = "quantization_config"
METHODS = ("compressed-tensors", "fp8", "fbgemm_fp8")
FORMATS = ("float-quantized", "naive-quantized")
SUFFIXES = ("_scale", "_scale_inv", "_scales_inv")
"""The name of a scale is that of its tensor and one of these."""
UNUSED = re.compile(r"(.*[._])?(input_scale|output_scale|activation_scale|[qkv]_scale)")
"""Names of scales of inputs, outputs and caches."""
LARGEST_BLOCK = 1 << 16


@dataclass(frozen=True)
class Layouts:
    """Layouts of scales that a ``quantization_config`` allows.

    Attributes:
        method: ``quant_method``.
        whole: a matrix may have one scale.
        rows: each of its rows may.
        block: rows and columns of a block that may; None without such a layout.
    """

    method: str
    whole: bool = False
    rows: bool = False
    block: Block | None = None

    def __str__(self) -> str:
        names = ["a scale of each tensor"] * self.whole + ["a scale of each row"] * self.rows
        if self.block is not None:
            names.append(f"a scale of each block of {self.block[0]} x {self.block[1]}")
        return f"fp8 (e4m3), {' or '.join(names)}; {self.method}"

    def blocks(self, shape: tuple[int, ...]) -> dict[tuple[int, ...], Block]:
        """Shapes that the scales of a tensor [..., N, K] may have, with the block of each."""
        found: dict[tuple[int, ...], Block] = {}
        *stack, rows, columns = shape
        if self.block is not None:
            found[grid(shape, self.block)] = self.block
        if self.rows:
            found[(*stack, rows, 1)] = (1, columns)
        if self.whole:
            for one in ((*stack, 1, 1), (*stack, 1), tuple(stack), (1,), ()):
                found.setdefault(one, (rows, columns))
        return found


@dataclass(frozen=True)
class Quantised:
    """A checkpoint with matrices in fp8.

    Attributes:
        layouts: what its config says of scales.
        tensors: its tensors without scales, by plain name.
        scales: of some of them, by the name of the tensor.
    """

    layouts: Layouts
    tensors: Mapping[str, Header]
    scales: Mapping[str, Header]

    def scaled(self, place: Path, passed_over: Callable[[str], bool]) -> dict[str, Header]:
        """The tensors, each in fp8 with its scale.

        Args:
            place: of the checkpoint, for messages.
            passed_over: whether a tensor of a name is not read, and may be stored in any way.

        Raises:
            CheckpointError: another type than e4m3, or a scale that is missing, of another shape or
                no float. The message names the tensor.
        """
        found = dict(self.tensors)
        for name, header in self.tensors.items():
            if header.dtype not in ITEMSIZES and not passed_over(name):
                found[name] = self._scaled(place, name, header)
        return found

    def _scaled(self, place: Path, name: str, header: Header) -> Header:
        if header.dtype != DTYPE:
            raise CheckpointError(f"{place}: {name} is in {header.dtype}, only {DTYPE} is read")
        if len(header.shape) < 2:
            raise CheckpointError(f"{place}: {name} is in {DTYPE} and no matrix")
        if (scale := self.scales.get(name)) is None:
            raise CheckpointError(f"{place}: {name} is in {DTYPE} and has no scale")
        if scale.dtype not in ITEMSIZES:
            raise CheckpointError(f"{place}: {scale.key} is in {scale.dtype}, no float of scales")
        if (block := (may := self.layouts.blocks(header.shape)).get(scale.shape)) is None:
            right = " or ".join(str(list(shape)) for shape in may)
            raise CheckpointError(f"{place}: {scale.key} is {list(scale.shape)}, expected {right}")
        return header._replace(scale=scale, block=block)


def quantised(place: Path, found: Mapping[str, Header], config: Fields) -> Quantised | None:
    """The tensors of a checkpoint in fp8; None where it stores wider floats alone.

    Args:
        place: of the checkpoint, for messages.
        found: all of its tensors, by plain name.
        config: its ``config.json``. ``quantization_config`` may stand in ``text_config``.

    Raises:
        CheckpointError: a quantisation that is not read, naming the field; tensors in fp8 without
            ``quantization_config`` or the reverse; or two scales of a tensor.
    """
    inner = config.get("text_config")
    said = config.get(FIELD)
    if said is None and isinstance(inner, Mapping):
        said = inner.get(FIELD)
    narrow = [name for name, header in found.items() if header.dtype not in ITEMSIZES]
    known = isinstance(said, Mapping) and said.get("quant_method") in METHODS
    in_fp8 = [name for name in narrow if found[name].dtype.startswith("F8_")]
    layouts = None
    if said is not None and (narrow or known):
        try:
            layouts = read_layouts(said)
        except UnsupportedConfig as error:
            raise CheckpointError(f"{place}: {error}") from None
    if layouts is None:
        if in_fp8:
            name = in_fp8[0]
            raise CheckpointError(
                f"{place}: {name} is in {found[name].dtype}, and config.json has no {FIELD} for it"
            )
        return None
    if not in_fp8:
        raise CheckpointError(
            f"{place}: {FIELD} in config.json says {layouts.method!r}, and no tensor is in {DTYPE}"
        )
    scales: dict[str, Header] = {}
    taken: set[str] = set()
    for name in narrow:
        names = [name + suffix for suffix in SUFFIXES if name + suffix in found]
        if len(names) > 1:
            raise CheckpointError(f"{place}: {name} has two scales, {names[0]} and {names[1]}")
        if names:
            scales[name] = found[names[0]]
            taken.add(names[0])
    rest = {n: h for n, h in found.items() if n not in taken and not UNUSED.fullmatch(n)}
    return Quantised(layouts, rest, scales)


def read_layouts(said: Any) -> Layouts | None:
    """The layouts of scales that a ``quantization_config`` allows; None where it quantises no
    weights.

    Raises:
        UnsupportedConfig: a quantisation that is not read; the message names the field.
    """
    if not isinstance(said, Mapping):
        raise UnsupportedConfig(f"{FIELD} must be an object, got {str(said)[:200]}")
    method = said.get("quant_method")
    if method not in METHODS:
        raise UnsupportedConfig(
            f"quant_method in {FIELD} is {str(method)[:200]!r}; only fp8 is read, of the methods "
            f"{', '.join(METHODS)}"
        )
    if method == "fbgemm_fp8":
        return Layouts(method, rows=True)
    if method == "fp8":
        _only(said, "fmt", None, "e4m3", "float8_e4m3fn")
        size = said.get("weight_block_size")
        if size is None:
            return Layouts(method, whole=True)
        return Layouts(method, block=_block("weight_block_size", size))
    return _compressed(said)


def _compressed(said: Fields) -> Layouts | None:
    """The layouts of compressed-tensors, from its groups of layers."""
    sparsity = said.get("sparsity_config") or {}
    if not isinstance(sparsity, Mapping) or sparsity.get("format", "dense") != "dense":
        raise UnsupportedConfig(f"sparsity_config in {FIELD} is not supported")
    if said.get("transform_config"):
        raise UnsupportedConfig(f"transform_config in {FIELD} is not supported")
    groups = said.get("config_groups")
    if not isinstance(groups, Mapping):
        raise UnsupportedConfig(f"config_groups in {FIELD} must be an object")
    found = none = Layouts("compressed-tensors")
    for name, group in groups.items():
        own = _of_group(f"config_groups.{name}", group, said)
        if own.block is not None and found.block not in (None, own.block):
            raise UnsupportedConfig(
                f"config_groups.{name}.weights.block_structure in {FIELD} is not that of the other "
                "groups"
            )
        found = Layouts(
            found.method,
            found.whole or own.whole,
            found.rows or own.rows,
            own.block or found.block,
        )
    return None if found == none else found


def _of_group(path: str, group: Any, said: Fields) -> Layouts:
    """The layout of a group of layers; none where it quantises inputs or caches alone."""
    if not isinstance(group, Mapping):
        raise UnsupportedConfig(f"{path} in {FIELD} must be an object")
    found = Layouts("compressed-tensors")
    if (weights := group.get("weights")) is None:
        return found
    if not isinstance(weights, Mapping):
        raise UnsupportedConfig(f"{path}.weights in {FIELD} must be an object")
    _only(said if group.get("format") is None else group, "format", *FORMATS)
    at = f"{path}.weights."
    usual = {"num_bits": 8, "type": "int", **weights}
    _only(usual, "num_bits", 8, at=at)
    _only(usual, "type", "float", at=at)
    _only(usual, "symmetric", None, True, at=at)
    _only(usual, "strategy", "tensor", "channel", "block", at=at)
    if weights["strategy"] == "block":
        size = weights.get("block_structure")
        return replace(found, block=_block(f"{at}block_structure", size))
    return replace(
        found, whole=weights["strategy"] == "tensor", rows=weights["strategy"] != "tensor"
    )


def _only(said: Fields, field: str, *values: Any, at: str = "") -> None:
    """Refuse a field with another value than these."""
    value = said.get(field)
    if not any(type(value) is type(one) and value == one for one in values):
        right = " or ".join(repr(one) for one in values if one is not None)
        raise UnsupportedConfig(
            f"{at}{field} in {FIELD} is {str(value)[:200]!r}, only {right} is read"
        )


def _block(field: str, said: Any) -> Block:
    """Rows and columns of a block, as a list or as ``"128x128"``."""
    if isinstance(said, str) and re.fullmatch(r"\d{1,9}x\d{1,9}", said):
        said = [int(size) for size in said.split("x")]
    if isinstance(said, list) and len(said) == 2:
        rows, columns = said
        if all(type(size) is int and 0 < size <= LARGEST_BLOCK for size in said):
            return rows, columns
    raise UnsupportedConfig(
        f"{field} in {FIELD} must be two sizes up to {LARGEST_BLOCK}, got {str(said)[:200]}"
    )
