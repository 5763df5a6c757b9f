"""Checkpoints on disk: check, then load. Only safetensors are opened, and no code comes from a
folder.

A checkpoint is a folder in Hugging Face's layout: ``config.json``, ``model.safetensors`` or
shards with their index, ``tokenizer.json``, and ``generation_config.json`` with what requests get
when they do not choose.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models import float8
from models.attention import kernel_name
from models.base import DenoiserModule, Transformer
from models.checkpoints import weights
from models.checkpoints.adapter import Adapter, read_adapter
from models.checkpoints.describe import Described, described, described_decoder
from models.checkpoints.devices import (
    DType,
    arithmetic,
    device_named,
    dtype_named,
    type_called,
    type_name,
)
from models.checkpoints.filling import fill
from models.checkpoints.find import checkpoint_outline, find_checkpoint
from models.checkpoints.inspection import (
    Inspected,
    check_checkpoint,
    check_computes,
    inspect_checkpoint,
    inspect_whole,
)
from models.checkpoints.malloc import giving_back
from models.checkpoints.memory import Needs, needs_of
from models.errors import CheckpointError, UnsupportedConfig
from models.files import in_a_line, member, read_json
from models.images import vq_decoder
from models.images.layout import ImageShape
from models.images.pixels import pixels
from models.images.vq_decoder import VQDecoder
from models.int8 import quantise_layer
from models.interface import Denoiser, ModelInfo
from models.joined import join_layer
from models.packed import pack, pack_layer
from models.progress import SILENT, Progress, Work
from models.tokenization.tokenizer import TextTokenizer
from models.widening import compute_wide

__all__ = [
    "Checkpoint",
    "Inspected",
    "check_checkpoint",
    "checkpoint_outline",
    "find_checkpoint",
    "inspect_checkpoint",
    "inspect_whole",
    "load_checkpoint",
    "load_divided_checkpoint",
    "load_network",
]


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model with all that belongs to it.

    Attributes:
        model: the network, in evaluation mode on its device.
        text: its tokenizer; a folder without one serves token ids only.
        info: facts.
        defaults: ``generation_config.json`` over what its family takes for granted.
        device: where the weights are.
        decoder: of image tokens, where there is one.
        adapter: name of the adapter that its weights contain; empty without one.
        needs: sizes that decide what memory a step takes, where they are known.
    """

    model: Denoiser
    text: TextTokenizer | None
    info: ModelInfo
    defaults: dict[str, Any]
    device: torch.device
    decoder: VQDecoder | None = None
    adapter: str = ""
    needs: Needs | None = None

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """Ids that end a text: the end token, the end of a turn where there is one, and further
        ones; none of an image.
        """
        turn = None if self.text is None else self.text.end_of_turn
        ends = (self.info.eos_id, turn, *self.info.more_ends)
        return tuple(dict.fromkeys(end for end in ends if end is not None))

    @property
    def arithmetic(self) -> str:
        """The type that it computes in, of ``info.dtype`` unless the CPU widens the weights."""
        return type_name(arithmetic(type_called(self.info.dtype), self.device))

    @property
    def attention(self) -> str:
        """The kernel of attention, for messages; empty where the network is not known here."""
        network = self.model
        if not isinstance(network, Transformer):
            return ""
        kind = getattr(torch, self.arithmetic)
        return kernel_name(self.device, kind, network.head_dim, network.block_length)

    @property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer.

        Raises:
            CheckpointError: the checkpoint has none.
        """
        if self.text is None:
            raise CheckpointError(f"{self.info.name} has no tokenizer.json")
        return self.text

    def piece(self, id_: int) -> str:
        """Text of one id as it stands inside a text; of an image, its number."""
        return str(id_) if self.text is None else self.text.piece(id_)

    def pixels(self, ids: Tensor) -> Tensor:
        """Canvases [B, L] -> images [B, H, W, C], uint8, on the CPU; see ``models.images.pixels``.

        Raises:
            CheckpointError: the tokens make no image, or the decoder of image tokens is missing.
        """
        return pixels(ids.to(self.device), self.check_pixels(), self.decoder)

    def check_pixels(self) -> ImageShape:
        """How tokens make an image, if ``pixels`` can be called.

        Raises:
            CheckpointError: as ``pixels``.
        """
        shape = self.info.image
        if shape is None:
            raise CheckpointError(f"{self.info.name} makes no images")
        if shape.tokens == "vq" and self.decoder is None:
            raise CheckpointError(f"{self.info.name} has no {vq_decoder.FILE}")
        return shape


def load_checkpoint(
    path: Path,
    device: str = "cpu",
    dtype: DType = "auto",
    adapter: Path | None = None,
    progress: Progress = SILENT,
) -> Checkpoint:
    """Load a checkpoint folder.

    Args:
        path: the folder.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: of the weights; ``auto`` is bfloat16 on CUDA and, for large networks, on a CPU with
            instructions for it, else float32 (bitwise reproducible). A CPU without them computes in
            float32 with weights in bfloat16. float8 and int8 are approximations; int8 is for CPUs.
        adapter: folder of a LoRA adapter that is added to the weights.
        progress: observes it.

    Raises:
        CheckpointError: anything missing, malformed or not supported, in one line.
    """
    where = device_named(device)
    with in_a_line(path):
        read = described(path)
        kind = dtype_named(dtype, where, read.info.parameters)
        needs = needs_of(read.built.network, read.info.vocab_size)
        added = None if adapter is None else read_adapter(adapter, read.built.network)
        skipped = read.built.network.passed_over
        total = sum(header.size for name, header in read.found.items() if not skipped(name))
        with progress.of(Work(read.info.name, "loading", "loaded", total)), giving_back():
            network = _filled(path, read, where, kind, added, progress, packed=True)
            pack(network)  # tells it that no layer is left as it was
        decoder = _decoder(path, read.info, where)
    info = replace(read.info, dtype=type_name(kind))
    name = "" if added is None else added.name
    return Checkpoint(network, read.text, info, read.defaults, where, decoder, name, needs)


def load_network(path: Path, device: str = "cpu", dtype: DType = "auto") -> DenoiserModule:
    """Load the network of a checkpoint folder, without its tokenizer.

    Args:
        path: the folder.
        device, dtype: as ``load_checkpoint``.

    Raises:
        CheckpointError: as ``load_checkpoint``.
    """
    where = device_named(device)
    with in_a_line(path):
        read = described(path)
        return _filled(path, read, where, dtype_named(dtype, where, read.info.parameters))


def _filled(
    path: Path,
    read: Described,
    where: torch.device,
    kind: torch.dtype,
    adapter: Adapter | None = None,
    progress: Progress = SILENT,
    packed: bool = False,
) -> DenoiserModule:
    """The network with its weights, an adapter's added, in evaluation mode."""
    network = read.built.network
    check_computes(network, kind, where)
    if where.type == "cpu":
        _check_memory(path, read.info.parameters * kind.itemsize)
    part = weights.whole if adapter is None else adapter.part
    stored, settle = kind, pack_layer if packed else None
    if kind in SETTLED:
        stored, settle = torch.bfloat16, SETTLED[kind]
    if packed and where.type == "cuda":
        settle = partial(_settled, [each for each in (settle, join_layer) if each is not None])
    fill(network, read.found, where, stored, part, progress, settle)
    if arithmetic(kind, where) != kind and kind != float8.KIND:
        compute_wide(network)
    network.ready(where)
    return network.eval()


def load_divided_checkpoint(
    path: Path,
    ranks: int,
    lost: Callable[[int], None],
    device: str = "cpu",
    dtype: DType = "auto",
    progress: Progress = SILENT,
) -> Checkpoint:
    """Load a checkpoint folder into several processes that share the network.

    Args:
        path: the folder.
        ranks: how many processes, this one included; see ``models.parallel.workers``.
        lost: called, on a thread of its own, with the number of one that ended by itself.
        device: ``auto``, ``cpu``, or ``cuda``, whose first ``ranks`` devices are taken.
        dtype: as ``load``.
        progress: observes it; how far the processes are is not known.

    Raises:
        CheckpointError: as ``load``, or a network that cannot be divided so.
    """
    from models.parallel.workers import started  # takes a second, and few need it

    where = device_named(device)
    with in_a_line(path):
        read = described(path)
    kind = dtype_named(dtype, where, read.info.parameters)
    needs = needs_of(read.built.network, read.info.vocab_size)
    check_computes(read.built.network, kind, where, ranks)
    info = replace(read.info, dtype=type_name(kind))
    try:
        with progress.of(Work(read.info.name, f"loading on {ranks} ranks", "loaded")):
            model = started(read.built, read.found, where, kind, ranks, lost)
    except UnsupportedConfig as error:
        raise CheckpointError(f"{path}: {error}") from None
    where = torch.device(where.type)
    return Checkpoint(model, read.text, info, read.defaults, where, needs=needs)


def _settled(
    steps: Sequence[Callable[[nn.Module, str], None]], network: nn.Module, name: str
) -> None:
    """Take several steps with a layer whose weights are there."""
    for step in steps:
        step(network, name)


SETTLED: dict[torch.dtype, Callable[[nn.Module, str], None]] = {
    float8.KIND: float8.narrow_layer,
    torch.int8: quantise_layer,
}
"""Makes of a layer in bfloat16 one of another type, as soon as its weights are there."""


def _check_memory(path: Path, size: int) -> None:
    """Refuse weights that the machine has no memory for, before any is read."""
    has = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > has:
        raise CheckpointError(f"{path}: its weights take {size} bytes, the machine has {has}")


def _decoder(path: Path, info: ModelInfo, device: torch.device) -> VQDecoder | None:
    """The decoder of image tokens that a folder holds, if it does."""
    place, shape = member(path, vq_decoder.FILE), info.image
    if not place.is_file() or shape is None or shape.tokens != "vq":
        return None
    decoder, found = described_decoder(place, shape)
    decoder.raw_codebook = bool(read_json(path / "config.json").get("raw_codebook"))
    fill(decoder, found, device, torch.float32)
    decoder.ready(device)
    return decoder.eval()
