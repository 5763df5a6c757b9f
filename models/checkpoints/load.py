"""Checkpoints on disk: check, then load. Only safetensors are opened, and no code comes from a
folder.

A checkpoint is a folder in Hugging Face's layout: ``config.json``, ``model.safetensors`` or
shards with their index, ``tokenizer.json``, and ``generation_config.json`` with what requests get
when they do not choose.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.base import DenoiserModule
from models.bundled import BUNDLED, bundled_names
from models.checkpoints import weights
from models.checkpoints.devices import DType, device_named, dtype_named
from models.checkpoints.meta_init import without_values
from models.checkpoints.weights import Header
from models.errors import CheckpointError, UnsupportedConfig
from models.files import in_a_line, member, read_json
from models.images import vq_decoder
from models.images.layout import ImageShape
from models.images.pixels import pixels
from models.images.vq_decoder import VQConfig, VQDecoder
from models.interface import Denoiser, ModelInfo
from models.registry import Built, build
from models.tokenization.file_check import check_tokenizer_file
from models.tokenization.tokenizer import TEXT_FILES, TextTokenizer

UNIFORM = {"sampler": "ancestral", "mixing_ratio": 1.0}
"""What requests to a model without a mask get: uniform noise alone (UDLM)."""


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
    """

    model: Denoiser
    text: TextTokenizer | None
    info: ModelInfo
    defaults: dict[str, Any]
    device: torch.device
    decoder: VQDecoder | None = None

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """Ids that end a text: the end token, and the end of a turn where there is one; none of an
        image.
        """
        turn = None if self.text is None else self.text.end_of_turn
        return tuple(end for end in (self.info.eos_id, turn) if end is not None)

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


def find_checkpoint(name_or_path: str) -> Path:
    """The folder of a bundled checkpoint's name, or the path itself.

    Raises:
        CheckpointError: neither.
    """
    if name_or_path in bundled_names():
        return BUNDLED / name_or_path
    path = Path(name_or_path)
    with suppress(OSError, ValueError):  # too long for a name; a NUL
        if path.is_dir():
            return path
    bundled = ", ".join(bundled_names())
    raise CheckpointError(f"no checkpoint at {name_or_path!r}; bundled ones: {bundled}")


def load_checkpoint(
    path: Path,
    device: str = "cpu",
    dtype: DType = "auto",
) -> Checkpoint:
    """Load a checkpoint folder.

    Args:
        path: the folder.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: of the weights; ``auto`` is float32 on a CPU (bitwise reproducible) and bfloat16 on
            CUDA.

    Raises:
        CheckpointError: anything missing, malformed or not supported, in one line.
    """
    where = device_named(device)
    kind = dtype_named(dtype, where)
    with in_a_line(path):
        read = _served(path)
        network = _filled(path, read, where, kind)
        decoder = _decoder(path, read.info, where)
    info = replace(read.info, dtype=str(kind).removeprefix("torch."))
    return Checkpoint(network, read.text, info, read.defaults, where, decoder)


def load_network(path: Path, device: str = "cpu", dtype: DType = "auto") -> DenoiserModule:
    """Load the network of a checkpoint folder, also of a family that cannot be served.

    Args:
        path: the folder.
        device, dtype: as ``load_checkpoint``.

    Raises:
        CheckpointError: as ``load_checkpoint``.
    """
    where = device_named(device)
    kind = dtype_named(dtype, where)
    with in_a_line(path):
        return _filled(path, _described(path), where, kind)


def _filled(path: Path, read: _Described, where: torch.device, kind: torch.dtype) -> DenoiserModule:
    """The network with its weights, in evaluation mode."""
    network = read.built.network
    if where.type == "cpu":
        _check_memory(path, read.info.parameters * kind.itemsize)
    weights.fill(network, read.found, where, kind)
    network.ready(where)
    return network.eval()


def load_divided_checkpoint(
    path: Path, ranks: int, lost: Callable[[int], None], device: str = "cpu", dtype: DType = "auto"
) -> Checkpoint:
    """Load a checkpoint folder into several processes that share the network.

    Args:
        path: the folder.
        ranks: how many processes, this one included; see ``models.parallel.workers``.
        lost: called, on a thread of its own, with the number of one that ended by itself.
        device: ``cpu`` or ``cuda``, whose first ``ranks`` devices are taken.
        dtype: as ``load``.

    Raises:
        CheckpointError: as ``load``, or a network that cannot be divided so.
    """
    from models.parallel.workers import started  # takes a second, and few need it

    where = device_named(device)
    kind = dtype_named(dtype, where)
    with in_a_line(path):
        read = _served(path)
    info = replace(read.info, dtype=str(kind).removeprefix("torch."))
    try:
        model = started(read.built, read.found, where, kind, ranks, lost)
    except UnsupportedConfig as error:
        raise CheckpointError(f"{path}: {error}") from None
    return Checkpoint(model, read.text, info, read.defaults, torch.device(where.type))


def inspect_checkpoint(path: Path) -> tuple[ModelInfo, dict[str, Any]]:
    """Facts and defaults of a checkpoint folder, by its files' headers; no weights are read.

    Raises:
        CheckpointError: as ``load``, but for the values of the weights.
    """
    with in_a_line(path):
        read = _described(path)
    return replace(read.info, dtype=weights.stored_dtype(read.found)), read.defaults


def check_checkpoint(
    path: Path, device: str = "cpu", dtype: DType = "auto", ranks: int = 1
) -> tuple[ModelInfo, dict[str, Any]]:
    """Refuse early what ``load_checkpoint`` and ``load_divided_checkpoint`` refuse by a folder's
    files' headers.

    Returns:
        Facts of the model and the defaults of its sampling parameters.

    Raises:
        CheckpointError: as ``load_checkpoint``, but for the values of the weights.
    """
    dtype_named(dtype, device_named(device))
    described = _served(path)
    built = described.built
    if ranks > 1:
        from models.parallel.tensor_parallel import check

        try:
            check(built.spec, built.config, ranks)
        except UnsupportedConfig as error:
            raise CheckpointError(f"{path}: {error}") from None
    return described.info, described.defaults


@dataclass(frozen=True)
class _Described:
    """A checkpoint folder without its weights.

    Attributes:
        found: where the weights are stored.
        built: the network on the meta device, with its family and config.
        text: the tokenizer, if the folder has one.
        info: facts, without the type of the weights.
        defaults: see ``Checkpoint``.
    """

    found: dict[str, Header]
    built: Built
    text: TextTokenizer | None
    info: ModelInfo
    defaults: dict[str, Any]


def _served(path: Path) -> _Described:
    """A folder's files but for the weights, if requests can be answered with its family.

    Raises:
        CheckpointError: they cannot; the message says why.
    """
    read = _described(path)
    if reason := (spec := read.built.spec).unserved:
        raise CheckpointError(f"{path}: {spec.title} checkpoints cannot be served yet: {reason}")
    return read


def _described(path: Path) -> _Described:
    """Read a folder's files but for the weights."""
    config = read_json(path / "config.json")
    found = weights.headers(path)
    shapes = {name: header.shape for name, header in found.items()}
    try:
        built = build(config, shapes)
    except UnsupportedConfig as error:
        raise CheckpointError(f"{path}: {error}") from None
    spec, sizes, network = built
    weights.compare(path, shapes, network)
    file = read_json(path / "generation_config.json", required=False)
    said = {name: value for name, value in file.items() if value is not None}
    noise = UNIFORM if sizes.mask_token_id is None else {}
    defaults = {**spec.defaults, **noise, **said}
    info = ModelInfo(
        name=path.resolve().name,
        family=spec.name,
        parameters=sum(t.numel() for t in network.state_dict().values()),
        vocab_size=sizes.vocab_size,
        mask_id=sizes.mask_token_id,
        eos_id=sizes.eos_token_id,
        max_length=network.max_length,
        dtype="",
        classes=network.classes,
        class_names=_class_names(config, network.classes),
        image=getattr(sizes, "image", None),
        block_length=getattr(sizes, "block_length", None),
    )
    has_text = (path / "tokenizer.json").is_file()
    text = read_tokenizer(path, sizes.vocab_size, info.mask_id) if has_text else None
    return _Described(found, built, text, info, defaults)


def _check_memory(path: Path, size: int) -> None:
    """Refuse weights that the machine has no memory for, before any is read."""
    has = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > has:
        raise CheckpointError(f"{path}: its weights take {size} bytes, the machine has {has}")


def _class_names(config: Mapping[str, Any], classes: int) -> tuple[str, ...]:
    """Names of the labels, as far as ``config.json`` has one for each.

    Raises:
        CheckpointError: names that are none, or not as many as there are labels.
    """
    names = config.get("class_names", [])
    good = isinstance(names, list) and all(isinstance(name, str) and name for name in names)
    if not good or len(names) not in (0, classes) or len(set(names)) < len(names):
        raise CheckpointError(f"class_names in config.json must be {classes} different names")
    return tuple(names)


def read_tokenizer(folder: Path, vocab_size: int, mask_id: int | None = None) -> TextTokenizer:
    """The tokenizer of a checkpoint folder, for a model of ``vocab_size`` ids.

    Raises:
        CheckpointError: missing, damaged, or with more ids than the model has.
    """
    for name in TEXT_FILES:
        member(folder, name)
    try:
        check_tokenizer_file(folder / "tokenizer.json", vocab_size)
        tokenizer = TextTokenizer.load(folder / "tokenizer.json", mask_id)
    except ValueError as error:
        raise CheckpointError(f"{folder}: {error}") from None
    if tokenizer.vocab_size > vocab_size:
        raise CheckpointError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} ids, the model {vocab_size}"
        )
    return tokenizer


def _decoder(path: Path, info: ModelInfo, device: torch.device) -> VQDecoder | None:
    """The decoder of image tokens that a folder holds, if it does."""
    place, shape = member(path, vq_decoder.FILE), info.image
    if not place.is_file() or shape is None or shape.tokens != "vq":
        return None
    decoder, found = described_decoder(place, shape)
    decoder.raw_codebook = bool(read_json(path / "config.json").get("raw_codebook"))
    weights.fill(decoder, found, device, torch.float32)
    decoder.ready(device)
    return decoder.eval()


def described_decoder(place: Path, shape: ImageShape) -> tuple[VQDecoder, dict[str, Header]]:
    """A decoder of image tokens on the meta device, and what its file holds.

    Raises:
        CheckpointError: not a decoder, or one of other images.
    """
    found = weights.headers(place)
    shapes = {name: header.shape for name, header in found.items()}
    try:
        with without_values():
            decoder = VQDecoder(VQConfig.stored(shapes))
    except UnsupportedConfig as error:
        raise CheckpointError(f"{place}: {error}") from None
    weights.compare(place, shapes, decoder)
    has = (decoder.config.codes, decoder.config.scale)
    if has != (shape.levels, shape.scale):
        raise CheckpointError(
            f"{place}: {has[0]} codes of {has[1]} pixels, "
            f"config.json says {shape.levels} of {shape.scale}"
        )
    return decoder, found
