"""LoRA adapters (arXiv:2106.09685) in peft's layout, added to the weights as these are read."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from models.base import CheckpointModule
from models.checkpoints.module_patterns import first_matches
from models.checkpoints.weights import Header, opened, plain_name, whole
from models.errors import CheckpointError
from models.files import in_a_line, member, read_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
NAME = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
FLOATS = ("F64", "F32", "F16", "BF16")
UNSUPPORTED = {
    "use_dora": (False,),
    "fan_in_fan_out": (False,),
    "modules_to_save": ([],),
    "bias": ("none",),
    "lora_bias": (False,),
}
"""Fields of ``adapter_config.json`` and the values they may have; null and absence are allowed."""


@dataclass(frozen=True)
class Pair:
    """The two matrices of one linear layer, where they are stored, and the factor of their product.

    Attributes:
        a: [r, in].
        b: [out, r].
        scale: factor of b @ a.
    """

    a: Header
    b: Header
    scale: float


class Adapter:
    """A LoRA adapter that fits a network.

    Attributes:
        folder: where it is stored.
        pairs: its matrices, by the stored name of the weight they are added to.
    """

    def __init__(self, folder: Path, pairs: Mapping[str, Pair]) -> None:
        self.folder = folder
        self.pairs = pairs

    @property
    def name(self) -> str:
        """The name of the adapter's folder."""
        return self.folder.resolve().name

    def part(self, file: Any, header: Header) -> Tensor:
        """A stored weight with its product added in fp32; other tensors as they are stored. For
        ``filling.weights_of``.
        """
        return self.added(plain_name(header.key), whole(file, header))

    def added(self, name: str, tensor: Tensor) -> Tensor:
        """A weight by its stored name, with its product added in fp32; others as they are."""
        pair = self.pairs.get(name)
        if pair is None or not tensor.is_floating_point():
            return tensor
        with opened(pair.a.path, tensor.device) as stored:
            a, b = whole(stored, pair.a).float(), whole(stored, pair.b).float()
        return tensor.float().addmm_(b, a, alpha=pair.scale)


def read_adapter(folder: Path, network: CheckpointModule) -> Adapter:
    """Read and check an adapter's folder against the network that it is for.

    Args:
        folder: with ``adapter_config.json`` and ``adapter_model.safetensors``.
        network: on any device, also without values.

    Raises:
        CheckpointError: missing or damaged, of a kind that is not supported, or of another network.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: an adapter must be a folder on this machine")
    with in_a_line(folder):
        config = _config(folder)
        found = _headers(folder)
        pairs = _pairs(folder, config, found, network)
        _check_finite(folder, found)
    return Adapter(folder, pairs)


def _config(folder: Path) -> dict[str, Any]:
    """The adapter's config, of a supported kind."""
    config = read_json(folder / CONFIG)
    place = folder / CONFIG
    if (kind := config.get("peft_type")) != "LORA":
        raise CheckpointError(f"{place}: peft_type is {kind!r}, only 'LORA' is supported")
    for name, allowed in UNSUPPORTED.items():
        value = config.get(name)
        if value is not None and value not in allowed:
            raise CheckpointError(f"{place}: {name} is {value!r}, only {allowed[0]!r} is supported")
    if not isinstance(config.get("use_rslora") or False, bool):
        raise CheckpointError(f"{place}: use_rslora must be true or false")
    _positive(place, "r", config.get("r"), whole_number=True)
    _positive(place, "lora_alpha", config.get("lora_alpha"))
    for name in ("rank_pattern", "alpha_pattern"):
        patterns = config.get(name) or {}
        if not isinstance(patterns, dict):
            raise CheckpointError(f"{place}: {name} must be an object")
        for pattern, value in patterns.items():
            _positive(place, f"{name}[{pattern!r}]", value, whole_number=name == "rank_pattern")
    return config


def _positive(place: Path, name: str, value: Any, whole_number: bool = False) -> None:
    kinds = (int,) if whole_number else (int, float)
    good = isinstance(value, kinds) and not isinstance(value, bool)
    if not good or not math.isfinite(value) or value <= 0:
        raise CheckpointError(f"{place}: {name} is {value!r}, it must be a positive number")


def _headers(folder: Path) -> dict[str, Header]:
    """Stored tensors by their names."""
    path = member(folder, WEIGHTS)
    if not path.is_file() and (folder / "adapter_model.bin").exists():
        raise CheckpointError(
            f"{folder}: {WEIGHTS} is missing; adapter_model.bin is a pickle, which can run code, "
            "and is not read"
        )
    with opened(path, values=False) as file:
        found = {}
        for key in file.keys():  # noqa: SIM118 - not a mapping
            part = file.get_slice(key)
            found[key] = Header(path, key, tuple(part.get_shape()), part.get_dtype())
    if not found:
        raise CheckpointError(f"{path}: no tensors")
    return found


def _pairs(
    folder: Path, config: Mapping[str, Any], found: Mapping[str, Header], network: CheckpointModule
) -> dict[str, Pair]:
    """The matrices of each layer, held against the shapes of the network's weights."""
    place, layers = folder / WEIGHTS, {}
    for key, header in found.items():
        if (match := NAME.fullmatch(key)) is None:
            raise CheckpointError(f"{place}: {key} is not a lora_A or lora_B weight")
        if header.dtype not in FLOATS:
            raise CheckpointError(f"{place}: {key} holds {header.dtype}, not floats")
        layers.setdefault(match[1], {})[match[2]] = header
    stored, pairs = network.stored(), {}
    ranks = _of_modules(folder, config, "rank_pattern", "r", list(layers))
    alphas = _of_modules(folder, config, "alpha_pattern", "lora_alpha", list(layers))
    embeddings = {n for n, module in network.named_modules() if isinstance(module, nn.Embedding)}
    for module, sides in layers.items():
        layer = plain_name(module)
        weight = stored.get(f"{layer}.weight")
        if weight is None or weight.ndim != 2 or layer in embeddings:
            raise CheckpointError(f"{place}: {module} is no linear layer of the network")
        if f"{layer}.weight" in pairs:
            raise CheckpointError(f"{place}: {module} is there twice")
        for side, other in ("AB", "BA"):
            if side not in sides:
                raise CheckpointError(f"{place}: {module} has lora_{other} but no lora_{side}")
        rank, alpha = ranks[module], alphas[module]
        out, into = weight.shape
        for side, wanted in (("A", [rank, into]), ("B", [out, rank])):
            if (has := list(sides[side].shape)) != wanted:
                raise CheckpointError(
                    f"{place}: {module}.lora_{side}.weight is {has}, expected {wanted} "
                    f"(rank {rank}, weight {list(weight.shape)})"
                )
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        pairs[f"{layer}.weight"] = Pair(sides["A"], sides["B"], scale)
    return pairs


def _of_modules(
    folder: Path, config: Mapping[str, Any], patterns: str, usual: str, modules: list[str]
) -> dict[str, Any]:
    """The value of each module: of the first pattern that matches the end of its name, or the usual
    one.
    """
    given = config.get(patterns) or {}
    try:
        found = first_matches(list(given), modules)
    except ValueError as error:
        raise CheckpointError(f"{folder / CONFIG}: {patterns}: {error}") from None
    values = list(given.values())
    chosen = (config[usual] if at is None else values[at] for at in found)
    return dict(zip(modules, chosen, strict=True))


def _check_finite(folder: Path, found: Mapping[str, Header]) -> None:
    """Refuse values that are not finite; one tensor is in memory at a time."""
    with opened(folder / WEIGHTS) as file:
        for key, header in found.items():
            if not bool(whole(file, header).isfinite().all()):
                raise CheckpointError(f"{folder / WEIGHTS}: {key} holds values that are not finite")
