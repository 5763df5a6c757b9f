"""Weights in safetensors: one file or several with an index; checked by their headers, then loaded
tensor by tensor straight to the device. Names lose the prefixes that trainers put before them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from models.base import CheckpointModule
from models.checkpoints import fp8
from models.errors import CheckpointError
from models.files import member, read_json
from models.progress import SILENT, Progress

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 4 << 30
PREFIXES = ("_forward_module.", "module.", "model.backbone.", "backbone.")
MOST_HEADER = 16 << 20  # bytes of a safetensors header
ITEMSIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Bytes of the floats that are stored without scales."""


class Header(NamedTuple):
    """Where a stored tensor is and what its file says of it.

    Attributes:
        path, key, shape, dtype: its file, its name there, and what the file says.
        scale: of a tensor in fp8, where its scales are stored.
        block: rows and columns of it that share one.
    """

    path: Path
    key: str
    shape: tuple[int, ...]
    dtype: str
    scale: Header | None = None
    block: fp8.Block = (1, 1)

    @property
    def size(self) -> int:
        """Bytes of its values; of other things than floats, their number."""
        return math.prod(self.shape) * ITEMSIZES.get(self.dtype, 1)


@contextmanager
def opened(path: Path, device: torch.device | str = "cpu", values: bool = True) -> Iterator[Any]:
    """An open safetensors file.

    Args:
        path: the file.
        device: where tensors are read to.
        values: whether tensors are read. PyTorch's mapping of a file larger than the memory fails;
            headers are read through another.

    Raises:
        CheckpointError: missing or damaged.
    """
    if not path.is_file():
        raise CheckpointError(f"{path.parent}: {path.name} is missing")
    try:
        with path.open("rb") as stream:
            said = int.from_bytes(stream.read(8), "little")
        if said > MOST_HEADER:
            raise CheckpointError(f"{path}: a header of {said} bytes; at most {MOST_HEADER}")
        with safe_open(str(path), "pt" if values else "np", device=str(device)) as file:
            yield file
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None
    except SafetensorError as error:
        raise CheckpointError(f"{path}: {error}") from None


def plain_name(key: str) -> str:
    """A tensor's name without the prefixes of trainers and wrappers."""
    for prefix in PREFIXES:
        key = key.removeprefix(prefix)
    return key


def _files(place: Path) -> dict[Path, list[str]]:
    """The weight files of a folder, or a file itself, and the keys in each."""
    if not (place / INDEX).is_file():
        path = place if place.is_file() else member(place, SINGLE)
        with opened(path, values=False) as file:
            return {path: list(file.keys())}
    placed = read_json(place / INDEX).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise CheckpointError(f"{place / INDEX}: weight_map is missing")
    found: dict[Path, list[str]] = {}
    for key, shard in placed.items():
        if not isinstance(shard, str) or Path(shard).name != shard or shard in ("", ".."):
            raise CheckpointError(f"{place / INDEX}: {shard!r} is not the name of a file")
        found.setdefault(member(place, shard), []).append(key)
    for path, keys in found.items():
        with opened(path, values=False) as file:
            if absent := sorted(set(keys) - set(file.keys())):
                raise CheckpointError(f"{path}: {absent[0]} is not in it, though the index says so")
    return found


def headers(place: Path) -> dict[str, Header]:
    """Tensors that a checkpoint folder or a single file stores, by plain name; no weights are read.

    Raises:
        CheckpointError: files missing or unreadable, an index that says other than they hold, or
            two tensors of one name.
    """
    found: dict[str, Header] = {}
    for path, keys in _files(place).items():
        with opened(path, values=False) as file:
            for key in keys:
                name, part = plain_name(key), file.get_slice(key)
                if name in found:
                    raise CheckpointError(f"{path}: {key} and {found[name].key} are one name")
                found[name] = Header(path, key, tuple(part.get_shape()), part.get_dtype())
    return found


def compare(place: Path, shapes: Mapping[str, Sequence[int]], network: CheckpointModule) -> None:
    """Hold stored names and shapes against what the architecture has.

    Raises:
        CheckpointError: anything missing, too much or of another shape.
    """
    optional, expected = network.derived(), network.stored()
    if missing := sorted(expected.keys() - shapes.keys()):
        raise CheckpointError(f"{place}: {len(missing)} tensors missing, first {missing[0]}")
    unknown = shapes.keys() - expected.keys() - optional.keys()
    if extra := sorted(name for name in unknown if not network.passed_over(name)):
        raise CheckpointError(f"{place}: {len(extra)} unknown tensors, first {extra[0]}")
    for name, wanted in (optional | expected).items():
        if name in shapes and list(shapes[name]) != list(wanted.shape):
            found, right = list(shapes[name]), list(wanted.shape)
            raise CheckpointError(f"{place}: {name} is {found}, expected {right}")


def checked(
    place: Path,
    name: str,
    tensor: Tensor,
    network: CheckpointModule,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """A tensor that was read, cast to ``dtype`` if one is given.

    Raises:
        CheckpointError: it holds no floats, some that are not finite, or other ones than follow
            from the config.
    """
    if not tensor.is_floating_point():
        raise CheckpointError(f"{place}: {name} holds no floats")
    computed = network.derived().get(name)
    if computed is not None:
        rounding = max(1e-5, torch.finfo(tensor.dtype).eps)
        if not torch.allclose(tensor.float().cpu(), computed, rtol=rounding, atol=0.0):
            raise CheckpointError(f"{place}: {name} is not what the config gives")
    tensor = tensor if dtype is None else tensor.to(dtype)
    if tensor.numel() and not all(bool(edge.isfinite()) for edge in tensor.aminmax()):
        raise CheckpointError(f"{place}: {name} holds values that are not finite")
    return tensor


def stored_dtype(found: Mapping[str, Header]) -> str:
    """Types of stored tensors, as safetensors writes them: ``BF16``."""
    return "+".join(sorted({header.dtype for header in found.values()}))


def whole(file: Any, header: Header) -> Tensor:
    """All of a stored tensor, from its open file; what is in fp8 times its scales, in fp32.

    Raises:
        CheckpointError: scales that are not positive numbers.
    """
    tensor = file.get_tensor(header.key)
    return tensor if header.scale is None else _multiplied(file, header, tensor, (0, 0))


def sliced(file: Any, header: Header, along: int, which: slice) -> Tensor:
    """Rows (``along`` = 0) or columns (1) of a stored matrix, or entries of a vector; otherwise as
    ``whole``.
    """
    stored = file.get_slice(header.key)
    part = (stored[which] if along == 0 else stored[:, which]).contiguous()
    if header.scale is None:
        return part
    return _multiplied(file, header, part, (0, which.start) if along else (which.start, 0))


def _multiplied(file: Any, header: Header, part: Tensor, first: tuple[int, int]) -> Tensor:
    """A part of a tensor in fp8 that begins at row and column ``first``, times its scales, which
    may be in another file.
    """
    where = header.scale
    assert where is not None
    if where.path == header.path:
        scales = file.get_tensor(where.key)
    else:
        with opened(where.path, part.device) as other:
            scales = other.get_tensor(where.key)
    scales = scales.float()
    if not bool((scales.isfinite() & (scales > 0)).all()):
        raise CheckpointError(f"{where.path}: {where.key} holds scales that are not positive")
    shape = fp8.grid(header.shape, header.block)
    alone = scales.numel() == 1  # of a stack too
    scales = scales.reshape(1, 1) if alone else scales.reshape(shape)
    return fp8.dequantised(part, scales, header.block, first)


def write(
    tensors: Iterable[tuple[str, Tensor]],
    folder: Path,
    limit: int = SHARD_BYTES,
    name: str = SINGLE,
    progress: Progress = SILENT,
) -> None:
    """Write tensors as they come: one file ``name``, or several of about ``limit`` bytes with an
    index. ``progress`` advances by the bytes of each tensor.

    Raises:
        CheckpointError: the files cannot be written.
    """
    placed: dict[str, str] = {}
    shard: dict[str, Tensor] = {}
    total = count = 0

    def close(file: str) -> None:
        try:
            save_file(shard, folder / file, metadata={"format": "pt"})
        except SafetensorError as error:
            raise CheckpointError(f"{folder / file}: {error}") from None
        placed.update(dict.fromkeys(shard, file))
        shard.clear()

    for key, tensor in tensors:
        if shard and sum(t.nbytes for t in shard.values()) + tensor.nbytes > limit:
            count += 1
            close(f"model-{count:05d}.safetensors")
        shard[key] = tensor
        total += tensor.nbytes
        progress.advance(tensor.nbytes)
    if not count:
        close(name)
        return
    close(f"model-{count + 1:05d}.safetensors")
    index = {"metadata": {"total_size": total}, "weight_map": placed}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
