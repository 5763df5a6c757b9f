"""Checkpoint folders described by their files but for the weights: config, headers, tokenizer,
defaults of requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.checkpoints import weights
from models.checkpoints.meta_init import without_values
from models.checkpoints.quantisation import quantised
from models.checkpoints.weights import Header
from models.errors import CheckpointError, UnsupportedConfig
from models.files import member, read_json
from models.hub.names import name_of
from models.hub.recipes import recipe_of
from models.images.layout import ImageShape
from models.images.vq_decoder import VQConfig, VQDecoder
from models.interface import ModelInfo
from models.registry import Built, build, named_config
from models.tokenization.file_check import check_tokenizer_file
from models.tokenization.tokenizer import TEXT_FILES, TextTokenizer

UNIFORM = {"sampler": "ancestral", "mixing_ratio": 1.0}
"""Defaults of requests to a model without a mask id: uniform noise alone (UDLM)."""


@dataclass(frozen=True)
class Described:
    """A checkpoint folder without its weights.

    Attributes:
        found: where the weights are stored, and the scales of those in fp8.
        built: the network on the meta device, with its family and config.
        text: the tokenizer, if the folder has one.
        info: facts, without the type of the weights.
        defaults: ``generation_config.json`` over the checkpoint's recipe over the defaults of its
            family; a null there counts as missing.
        quantisation: how weights are stored in fp8, in words; empty where none are.
    """

    found: dict[str, Header]
    built: Built
    text: TextTokenizer | None
    info: ModelInfo
    defaults: dict[str, Any]
    quantisation: str = ""


def described(path: Path) -> Described:
    """Read a folder's files but for the weights."""
    name = name_of(path)
    config = named_config(read_json(path / "config.json"), name)
    found = weights.headers(path)
    if (narrow := quantised(path, found, config)) is not None:
        found = dict(narrow.tensors)
    shapes = {name: header.shape for name, header in found.items()}
    try:
        built = build(config, shapes)
    except UnsupportedConfig as error:
        raise CheckpointError(f"{path}: {error}") from None
    spec, sizes, network = built
    weights.compare(path, shapes, network)
    if narrow is not None:
        found = narrow.scaled(path, network.passed_over)
    file = read_json(path / "generation_config.json", required=False)
    try:
        said = spec.read_defaults({n: value for n, value in file.items() if value is not None})
    except UnsupportedConfig as error:
        raise CheckpointError(f"{path}: {error}") from None
    bare = sizes.mask_token_id is None and network.canvas_length is None
    noise = UNIFORM if bare else {}
    recipe = recipe_of(name)
    usual = recipe.defaults if recipe is not None else {}
    length = network.block_length or network.canvas_length
    block = {} if length is None else {"block_length": length}
    defaults = {**spec.defaults, **noise, **usual, **said, **block}
    info = ModelInfo(
        name=name,
        family=spec.name,
        parameters=sum(t.numel() for t in network.state_dict().values()),
        vocab_size=sizes.vocab_size,
        mask_id=sizes.mask_token_id,
        eos_id=sizes.eos_token_id,
        max_length=network.max_length,
        dtype="",
        more_ends=_more_ends(path, said.get("more_ends", ()), sizes.vocab_size),
        classes=network.classes,
        class_names=_class_names(config, network.classes),
        image=getattr(sizes, "image", None),
        block_length=network.block_length,
        canvas_length=network.canvas_length,
        shifted=network.shifted,
        cache=network.cache_shape,
    )
    has_text = (path / "tokenizer.json").is_file()
    text = read_tokenizer(path, sizes.vocab_size, info.mask_id) if has_text else None
    how = "" if narrow is None else str(narrow.layouts)
    return Described(found, built, text, info, defaults, how)


def _more_ends(path: Path, said: Any, vocab_size: int) -> tuple[int, ...]:
    """Further ids that end a text, as a family reads them from ``generation_config.json``.

    Raises:
        CheckpointError: not ids of the vocabulary.
    """
    known = isinstance(said, list | tuple) and all(type(id_) is int for id_ in said)
    if not known or not all(0 <= id_ < vocab_size for id_ in said):
        raise CheckpointError(
            f"{path}: eos_token_id in generation_config.json must be ids below {vocab_size}; "
            f"got {str(said)[:200]}"
        )
    return tuple(said)


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
