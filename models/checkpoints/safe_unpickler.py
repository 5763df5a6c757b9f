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
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from models.errors import CheckpointError

LONGEST_PROGRAM, MOST_STEPS = 16 << 20, 1 << 20
"""Bytes and steps of a pickle; that of a network of a thousand tensors has some 30,000 steps."""
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
    """An ordered dict of a pickle; attributes that were pickled with it are dropped, and so are
    items that it is built with: ``torch.save`` sets them one by one.
    """

    __slots__ = ()

    def __init__(self, *_items: object) -> None:
        super().__init__()

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
            type(n) is int and 0 <= n < 1 << 48 for n in numbers
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


def _is_key(key: object) -> bool:
    """Whether it can be looked up in constant time. A tuple of tuples that are shared takes an
    exponential one, and one that is nested deeply overflows the stack.
    """
    return type(key) in (str, int, float, bool, bytes, type(None))


class _Reader(pickle._Unpickler):
    """Python's own unpickler but for keys: items are kept only where the key is a plain value."""

    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]

    def _items(self, pairs: list[Any]) -> None:
        held: Any = self.stack[-1]
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if _is_key(key) or isinstance(held, Inert):
                held[key] = value

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._items([key, value])

    def _set_items(self) -> None:
        self._items(self.pop_mark())

    def _add_items(self) -> None:
        items = [item for item in self.pop_mark() if _is_key(item)]
        held = self.stack[-1]
        held.update(items) if isinstance(held, set) else held.extend(items)

    def _dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._items(items)

    def _frozen_set(self) -> None:
        self.append(frozenset(item for item in self.pop_mark() if _is_key(item)))

    def _refuse(self) -> None:
        raise pickle.UnpicklingError("it holds what torch.save does not write")

    dispatch: ClassVar[Any] = {
        **pickle._Unpickler.dispatch,
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
        pickle.ADDITEMS[0]: _add_items,
        pickle.DICT[0]: _dict,
        pickle.FROZENSET[0]: _frozen_set,
        pickle.BYTEARRAY8[0]: _refuse,  # makes room for as many bytes as it says
        **dict.fromkeys((pickle.EXT1[0], pickle.EXT2[0], pickle.EXT4[0]), _refuse),
    }

    def find_class(self, module: str, name: str) -> Any:
        return _KNOWN.get((module, name), Inert)

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
        place = self._member(pickles[0])
        if place.file_size > LONGEST_PROGRAM:
            raise CheckpointError(
                f"{path}: a pickle of {place.file_size} bytes, at most {LONGEST_PROGRAM}"
            )
        program = archive.read(place)
        if sum(1 for _ in islice(pickletools.genops(program), MOST_STEPS + 1)) > MOST_STEPS:
            raise CheckpointError(f"{path}: a pickle of more than {MOST_STEPS} steps")
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
