"""Weights in safetensors: one file or several with an index; checked by their headers, then loaded
tensor by tensor straight to the device.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 4 << 30


class CheckpointError(Exception):
    """A checkpoint that cannot be served; the message is one line."""


def read_json(path: Path, required: bool = True) -> dict[str, Any]:
    """A JSON object from a file; an empty one where an optional file is missing.

    Raises:
        CheckpointError: missing, or no JSON object.
    """
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


@contextmanager
def _opened(path: Path, device: torch.device | str = "cpu") -> Iterator[Any]:
    if not path.is_file():
        raise CheckpointError(f"{path.parent}: {path.name} is missing")
    try:
        with safe_open(str(path), "pt", device=str(device)) as file:
            yield file
    except SafetensorError as error:
        raise CheckpointError(f"{path}: {error}") from None


def files(folder: Path) -> dict[Path, list[str]]:
    """The weight files of a checkpoint folder and the tensors in each.

    Raises:
        CheckpointError: files missing or unreadable, or an index that says other than they hold.
    """
    if not (folder / INDEX).is_file():
        with _opened(folder / SINGLE) as file:
            return {folder / SINGLE: list(file.keys())}
    placed = read_json(folder / INDEX).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise CheckpointError(f"{folder / INDEX}: weight_map is missing")
    found: dict[Path, list[str]] = {}
    for name, shard in placed.items():
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise CheckpointError(f"{folder / INDEX}: {shard!r} is not the name of a file")
        found.setdefault(folder / shard, []).append(name)
    for path, names in found.items():
        with _opened(path) as file:
            if absent := sorted(set(names) - set(file.keys())):
                raise CheckpointError(f"{path}: {absent[0]} is not in it, though the index says so")
    return found


def stored_dtype(folder: Path) -> str:
    """Types of the stored tensors, as safetensors writes them: ``BF16``.

    Raises:
        CheckpointError: see ``files``.
    """
    kinds = set()
    for path, names in files(folder).items():
        with _opened(path) as file:
            kinds |= {file.get_slice(name).get_dtype() for name in names}
    return "+".join(sorted(kinds))


def check(folder: Path, expected: Mapping[str, Tensor]) -> dict[Path, list[str]]:
    """Compare names and shapes with what the architecture has, by the files' headers alone.

    Returns:
        the weight files and the tensors in each.

    Raises:
        CheckpointError: anything missing, too much or of another shape.
    """
    found = files(folder)
    names = {name for held in found.values() for name in held}
    if missing := sorted(expected.keys() - names):
        raise CheckpointError(f"{folder}: {len(missing)} tensors missing, first {missing[0]}")
    if extra := sorted(names - expected.keys()):
        raise CheckpointError(f"{folder}: {len(extra)} unknown tensors, first {extra[0]}")
    for path, held in found.items():
        with _opened(path) as file:
            for name in held:
                shape, wanted = file.get_slice(name).get_shape(), list(expected[name].shape)
                if list(shape) != wanted:
                    raise CheckpointError(f"{path}: {name} is {list(shape)}, expected {wanted}")
    return found


def fill(model: nn.Module, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
    """Put a folder's weights into a model that was built on the meta device.

    Raises:
        CheckpointError: see ``check``; or values that are not finite.
    """
    state: dict[str, Tensor] = {}
    for path, names in check(folder, model.state_dict()).items():
        with _opened(path, device) as file:
            for name in names:
                state[name] = file.get_tensor(name).to(dtype)
                if not bool(state[name].isfinite().all()):
                    raise CheckpointError(f"{path}: {name} holds values that are not finite")
    model.load_state_dict(state, assign=True)
    model.requires_grad_(False)


def write(tensors: Iterable[tuple[str, Tensor]], folder: Path, limit: int = SHARD_BYTES) -> None:
    """Write tensors as they come: one file, or several of about ``limit`` bytes with an index."""
    placed: dict[str, str] = {}
    shard: dict[str, Tensor] = {}
    total = count = 0

    def close(name: str) -> None:
        save_file(shard, folder / name, metadata={"format": "pt"})
        placed.update(dict.fromkeys(shard, name))
        shard.clear()

    for name, tensor in tensors:
        if shard and sum(t.nbytes for t in shard.values()) + tensor.nbytes > limit:
            count += 1
            close(f"model-{count:05d}.safetensors")
        shard[name] = tensor
        total += tensor.nbytes
    if not count:
        close(SINGLE)
        return
    close(f"model-{count + 1:05d}.safetensors")
    index = {"metadata": {"total_size": total}, "weight_map": placed}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
