"""Torch's zip files (``.ckpt``, ``.pt``) read as data: nothing that is pickled in them ever runs.

A pickle is a program. The unpickler here knows the few names that make up tensors and containers;
whatever else a file names - classes, functions, modules - becomes an ``Inert``. Nothing is imported
for it, and calling it, building it or filling it does nothing. Tensors stay on disk until they are
asked for, and are then held against the length of their storage.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

from models.checkpoints.weights import CheckpointError

MAGIC = b"PK\x03\x04"


class Inert:
    """In place of any object of an unknown class: keeps its state as data, and does nothing."""

    __slots__ = ("state",)

    def __new__(cls, *_args: object, **_named: object) -> Inert:
        """Whatever the arguments are, they are dropped."""
        made = object.__new__(cls)
        made.state = None
        return made

    def __setstate__(self, state: object) -> None:
        self.state = state

    def __call__(self, *_args: object, **_named: object) -> Inert:
        """Another one."""
        return Inert()

    def __setitem__(self, _key: object, _value: object) -> None:
        pass

    def append(self, *_items: object) -> None:
        """Not kept."""

    extend = add = append


class Table(dict[Any, Any]):
    """An ordered dict of a pickle; attributes that were pickled with it are dropped."""

    __slots__ = ()

    def __setstate__(self, _state: object) -> None:
        pass


class _Kind(NamedTuple):
    """A torch storage class."""

    dtype: torch.dtype


class _Storage(NamedTuple):
    key: str
    dtype: torch.dtype
    length: int


class StoredTensor(NamedTuple):
    """A dense tensor as the pickle describes it. Nothing of it has been checked yet."""

    storage: _Storage
    offset: Any
    size: Any
    stride: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape.

        Raises:
            CheckpointError: it is none, or does not lie inside the storage.
        """
        numbers = (self.offset, *self.size, *self.stride)
        if len(self.size) != len(self.stride) or not all(
            type(n) is int and n >= 0 for n in numbers
        ):
            raise CheckpointError("a tensor's size or stride is not one")
        steps = [(n - 1) * s for n, s in zip(self.size, self.stride, strict=True)]
        if math.prod(self.size) and self.offset + sum(steps) >= self.storage.length:
            raise CheckpointError(f"a tensor of {list(self.size)} reaches past its storage")
        if math.prod(self.size) > self.storage.length:
            raise CheckpointError(f"a tensor of {list(self.size)} is larger than its storage")
        return tuple(self.size)


class _Call:
    """A function that a pickle may call; it cannot be given attributes."""

    __slots__ = ("_run",)

    def __init__(self, run: Callable[..., object]) -> None:
        self._run = run

    def __call__(self, *args: object) -> object:
        return self._run(*args)

    def __setstate__(self, _state: object) -> None:
        pass


def _tensor(
    storage: object, offset: object, size: object, stride: object, *_rest: object
) -> object:
    if isinstance(storage, _Storage) and isinstance(size, tuple) and isinstance(stride, tuple):
        return StoredTensor(storage, offset, size, stride)
    return Inert()


_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_KNOWN: dict[tuple[str, str], object] = {
    ("collections", "OrderedDict"): Table,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor"): _Call(_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _Call(_tensor),
    ("torch._utils", "_rebuild_parameter"): _Call(lambda data, *_rest: data),
    **{("torch", name): _Kind(dtype) for name, dtype in _STORAGES.items()},
}
"""All that a pickle's names can mean, by module and name. Lookups never import."""


class _Reader(pickle.Unpickler):
    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(stream)

    def find_class(self, module_name: str, global_name: str) -> Any:
        return _KNOWN.get((module_name, global_name), Inert)

    def persistent_load(self, pid: Any) -> object:
        match pid:
            case ("storage", _Kind(dtype), str(key), _, int(length)):
                return _Storage(key, dtype, length)
        return Inert()


class TorchFile:
    """An open file of ``torch.save``.

    Attributes:
        content: the pickled object: containers, numbers, strings, ``StoredTensor`` and ``Inert``.
    """

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        """Read the pickle; tensors wait for ``read``.

        Raises:
            CheckpointError: not a file of ``torch.save``, or one that is damaged.
        """
        self.path, self._archive = path, archive
        pickles = [n for n in archive.namelist() if n.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise CheckpointError(f"{path}: a zip file, but not one of torch.save")
        self._root = pickles[0].removesuffix("data.pkl")
        order = f"{self._root}byteorder"
        if order in archive.namelist() and archive.read(self._member(order)) != b"little":
            raise CheckpointError(f"{path}: only files of little-endian machines are read")
        program = archive.read(self._member(pickles[0]))
        for code, operand, _ in pickletools.genops(program):
            # A memo index is a size to allocate; real ones count what has been pickled so far.
            if "PUT" in code.name and isinstance(operand, int) and operand > len(program):
                raise CheckpointError(f"{path}: its pickle asks for more memory than it can need")
        self.content: Any = _Reader(io.BytesIO(program)).load()

    def _member(self, name: str) -> zipfile.ZipInfo:
        """A part of the archive, stored as torch stores it: as it is."""
        try:
            info = self._archive.getinfo(name)
        except KeyError:
            raise CheckpointError(f"{self.path}: {name} is missing") from None
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise CheckpointError(f"{self.path}: {name} is compressed or encrypted")
        if info.file_size > self.path.stat().st_size:
            raise CheckpointError(f"{self.path}: {name} is larger than the file")
        return info

    def read(self, tensor: StoredTensor) -> Tensor:
        """The values of a tensor, contiguous and of its own.

        Raises:
            CheckpointError: see ``StoredTensor.shape``; or a storage missing or too short.
        """
        shape, (key, dtype, length) = tensor.shape, tensor.storage
        info = self._member(f"{self._root}data/{key}")
        wanted = length * dtype.itemsize
        if info.file_size < wanted:
            raise CheckpointError(
                f"{self.path}: storage {key} holds {info.file_size} bytes, not {wanted}"
            )
        if not math.prod(shape):
            return torch.empty(shape, dtype=dtype)
        data = bytearray(wanted)
        with _damage(self.path), self._archive.open(info) as stream:
            if stream.readinto(data) != wanted:  # type: ignore[attr-defined]
                raise CheckpointError(f"{self.path}: storage {key} ends early")
        flat = torch.frombuffer(data, dtype=dtype)
        return flat.as_strided(shape, tensor.stride, tensor.offset).clone(
            memory_format=torch.contiguous_format
        )


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Say in one line what is wrong with a file."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # a hostile file can make its readers raise anything
        message = f"{type(error).__name__}: {error}"[:200]
        raise CheckpointError(f"{path}: damaged ({message})") from None


@contextmanager
def opened(path: Path) -> Iterator[TorchFile]:
    """Open a file of ``torch.save``.

    Raises:
        CheckpointError: see ``TorchFile``.
    """
    with _damage(path):
        archive = zipfile.ZipFile(path)
    with archive:
        with _damage(path):
            file = TorchFile(path, archive)
        yield file
