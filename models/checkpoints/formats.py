"""Published checkpoints in whatever form they come: what they hold, and what they say of it.

A form is told by its content: a folder in Hugging Face's layout, a flat safetensors file, a
Lightning checkpoint, or a list of averaged weights alone. Pickles are read as data
(``models.checkpoints.safe_unpickler``). Nothing is read before it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.checkpoints import safe_unpickler, weights
from models.checkpoints.quantisation import FIELD, quantised
from models.checkpoints.safe_unpickler import Inert, StoredTensor, TorchFile
from models.errors import CheckpointError
from models.files import member, read_json
from models.images import vq_decoder
from models.registry import FAMILIES, family_of_tensors
from models.tokenization.tokenizer import TEXT_FILES

IMAGE_CODEC = "image_tokenizer.vae."
NOISES = {
    "mdlm": {"mixing_ratio": 0.0},
    "udlm": {"mixing_ratio": 1.0},
    "gidd": {"mixing_ratio": 0.0, "sampler": "gidd"},  # the published runs: no uniform noise
}
"""Defaults of requests by the name of the noise in training; an XDLM checkpoint states its k."""
COMPANIONS = (*TEXT_FILES, vq_decoder.FILE)


class LazyTensor(NamedTuple):
    """A tensor that has not been read."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]


@dataclass(frozen=True)
class Source:
    """A published checkpoint.

    Attributes:
        tensors: by plain name.
        config: what it says of the fields of ``config.json``.
        defaults: its ``generation_config.json``, or what it says of the noise.
        companions: files that go along.
    """

    tensors: dict[str, LazyTensor]
    config: dict[str, Any] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)
    companions: tuple[Path, ...] = ()


@contextmanager
def opened(path: Path, raw: bool = False) -> Iterator[Source]:
    """Open a published checkpoint.

    Args:
        path: a folder or a file.
        raw: take the trained weights of a Lightning checkpoint, not their average.

    Raises:
        CheckpointError: in one line: a form that is not known, or one that is damaged.
    """
    if path.is_dir():
        yield _folder(path)
        return
    head = _head(path)
    if head[8:9] == b"{":
        tensors = _headers(path)
        yield Source(tensors, {"model_type": family_of_tensors(tensors).published_type})
    elif head.startswith(safe_unpickler.MAGIC):
        with safe_unpickler.opened(path) as file:
            yield _trained(file, raw)
    elif head.startswith(b"\x80"):
        raise CheckpointError(f"{path}: a bare pickle; only torch.save's zip format is read")
    else:
        raise CheckpointError(f"{path}: neither safetensors nor a file of torch.save")


def _head(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():  # opening a pipe waits for who writes to it
            raise CheckpointError(f"{path}: neither a folder nor a file")
        with path.open("rb") as stream:
            return stream.read(9)
    except ValueError as error:  # a NUL in its name
        raise CheckpointError(f"{path}: {error}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from None


@contextmanager
def opened_decoder(path: Path) -> Iterator[dict[str, LazyTensor]]:
    """The decoder's part of a published tokenizer of images, by name: safetensors, or a file of
    ``torch.save`` with the weights, or with them under ``model`` or ``state_dict``.

    Raises:
        CheckpointError: in one line: a form that is not known, or one that is damaged.
    """
    if _head(path)[8:9] == b"{":
        yield {n: t for n, t in _headers(path).items() if n.startswith(vq_decoder.PARTS)}
        return
    with safe_unpickler.opened(path) as file:
        content = file.content if isinstance(file.content, dict) else {}
        for name in ("model", "state_dict"):
            if isinstance(content.get(name), dict):
                content = content[name]
        names = [n for n in content if isinstance(n, str) and n.startswith(vq_decoder.PARTS)]
        yield {name: _waiting(file, name, content[name]) for name in names}


def _headers(place: Path) -> dict[str, LazyTensor]:
    return _lazy(weights.headers(place))


def _lazy(found: Mapping[str, weights.Header]) -> dict[str, LazyTensor]:
    """Tensors by their headers; what is in fp8 will be in bfloat16."""

    def reader(header: weights.Header) -> Callable[[], Tensor]:
        def read() -> Tensor:
            with weights.opened(header.path) as file:
                tensor = weights.whole(file, header)
            return tensor if header.scale is None else tensor.to(torch.bfloat16)

        return read

    return {
        name: LazyTensor(header.shape, reader(header))
        for name, header in found.items()
        if not name.startswith(IMAGE_CODEC)
    }


def _folder(path: Path) -> Source:
    config = read_json(path / "config.json")
    config.pop("auto_map", None)  # points at code that we do not take along
    defaults = read_json(path / "generation_config.json", required=False)
    places = [member(path, name) for name in COMPANIONS]
    companions = tuple(place for place in places if place.is_file())
    found = weights.headers(path)
    if (narrow := quantised(path, found, config)) is not None:
        found = narrow.scaled(path, lambda name: not found[name].dtype.startswith("F8_"))
        for fields in (config, config.get("text_config")):
            if isinstance(fields, dict):
                fields.pop(FIELD, None)
    return Source(_lazy(found), config, defaults, companions)


def _trained(file: TorchFile, raw: bool) -> Source:
    """A Lightning checkpoint, or averaged weights alone."""
    content = file.content if isinstance(file.content, dict) else {}
    state, average = content.get("state_dict"), content.get("ema")
    named = _named(file, state) if isinstance(state, dict) else None
    if raw or not isinstance(average, dict):
        if named is None:
            what = "no state_dict" if raw else "neither state_dict nor ema"
            raise CheckpointError(f"{file.path}: {what} in it")
        tensors = named
    else:
        tensors = _listed(file, average.get("shadow_params"))
        for name in family_of_tensors(tensors).unlisted:
            if named and name in named:
                tensors[name] = named[name]
    spec = family_of_tensors(tensors)
    said = _Said(content.get("hyper_parameters")).at("config")
    config = {
        "model_type": spec.published_type,
        "model_length": said.at("model", "length").plain(),
        "n_heads": said.at("model", "n_heads").plain(),
        "time_conditioning": said.at("algo", "time_conditioning").plain(),
        "causal_attention": said.at("algo", "causal_attention").plain(),
    }
    defaults = NOISES.get(said.at("algo", "name").text() or "", {})
    ratio = said.at("algo", "k1").plain()
    if not defaults and ratio is not None:
        defaults = {"mixing_ratio": ratio}
    return Source(tensors, {n: v for n, v in config.items() if v is not None}, dict(defaults))


def _named(file: TorchFile, state: Mapping[Any, Any]) -> dict[str, LazyTensor]:
    found: dict[str, LazyTensor] = {}
    for key, value in state.items():
        name = weights.plain_name(str(key))
        if name.startswith(IMAGE_CODEC):
            continue
        if name in found:
            raise CheckpointError(f"{file.path}: two tensors are named {name}")
        found[name] = _waiting(file, name, value)
    return found


def _listed(file: TorchFile, values: object) -> dict[str, LazyTensor]:
    """Averaged weights without names, in the order of registration."""
    if not isinstance(values, list):
        raise CheckpointError(f"{file.path}: ema has no list of shadow_params")
    found = (spec.listed(len(values)) for spec in FAMILIES.values())
    names = next((names for names in found if names is not None), None)
    if names is None:
        known = ", ".join(spec.list_lengths for spec in FAMILIES.values() if spec.list_lengths)
        raise CheckpointError(f"{file.path}: {len(values)} shadow_params; {known}")
    return {n: _waiting(file, n, v) for n, v in zip(names, values, strict=True)}


def _waiting(file: TorchFile, name: str, value: object) -> LazyTensor:
    if not isinstance(value, StoredTensor) or not value.storage.dtype.is_floating_point:
        raise CheckpointError(f"{file.path}: {name} is no dense tensor of floats")
    try:
        return LazyTensor(value.shape, lambda: file.read(value))
    except CheckpointError as error:
        raise CheckpointError(f"{file.path}: {name}: {error}") from None


class _Said:
    """A place in a pickled configuration, plain or of OmegaConf, whose objects are ``Inert``."""

    def __init__(self, value: object) -> None:
        self._value = value

    def at(self, *path: str) -> _Said:
        """The place below, or one that holds nothing."""
        value: object = self._value
        for name in path:
            if isinstance(value, Inert) and isinstance(value.state, dict):
                value = value.state.get("_content")
            value = value.get(name) if isinstance(value, dict) else None
        return _Said(value)

    def plain(self) -> bool | int | float | None:
        """A number or a flag, if one stands here."""
        value = self._leaf()
        return value if isinstance(value, bool | int | float) else None

    def text(self) -> str | None:
        """A string, if one stands here."""
        value = self._leaf()
        return value if isinstance(value, str) else None

    def _leaf(self) -> object:
        value = self._value
        if isinstance(value, Inert) and isinstance(value.state, dict):
            return value.state.get("_val")
        return value
