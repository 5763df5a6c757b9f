"""Files of a checkpoint folder, read so that every failure is one line."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from models.errors import LONGEST_MESSAGE, CheckpointError

LONGEST_NAME = 255  # bytes of a file's name
MOST_JSON = 16 << 20  # bytes of a JSON file; an index of 100,000 tensors has ten


@contextmanager
def in_a_line(place: Path) -> Iterator[None]:
    """Whatever a file makes its readers raise is a ``CheckpointError``."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{place}: {error.strerror or error}") from None
    except (
        ArithmeticError,
        LookupError,
        MemoryError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        reason = f"{type(error).__name__}: {str(error)[:LONGEST_MESSAGE]}"
        raise CheckpointError(f"{place}: cannot be read ({reason})") from None


def member(folder: Path, name: str) -> Path:
    """Where a file of a folder is. Links may lead about in the folder, or in the repository of
    Hugging Face's cache that it is a snapshot of; a checkpoint cannot point at other files.

    Raises:
        CheckpointError: the name leads out of the folder, or nowhere.
    """
    if len(name.encode(errors="replace")) > LONGEST_NAME:
        raise CheckpointError(f"{folder}: {name[:32]!r}… is not the name of a file: too long")
    try:
        root, real = folder.resolve(), (folder / name).resolve()
    except (OSError, RuntimeError, ValueError):  # a circle of links; a NUL
        raise CheckpointError(f"{folder}: {name!r} is not the name of a file") from None
    if root.parent.name == "snapshots" and (root.parent.parent / "blobs").is_dir():
        root = root.parent.parent
    if not real.is_relative_to(root):
        raise CheckpointError(f"{folder}: {name} is a link that leads out of the folder")
    return folder / name


def read_json(path: Path, required: bool = True) -> dict[str, Any]:
    """A JSON object from a file; an empty one where an optional file is missing.

    Raises:
        CheckpointError: missing, too large, or no JSON object.
    """
    if not member(path.parent, path.name).is_file():
        if required:
            raise CheckpointError(f"{path.parent}: {path.name} is missing")
        return {}
    try:
        if (size := path.stat().st_size) > MOST_JSON:
            raise CheckpointError(f"{path}: {size} bytes; at most {MOST_JSON} are read")
        value = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_object)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from None
    except ValueError as error:  # no JSON, no UTF-8, a number of thousands of digits
        raise CheckpointError(f"{path}: {error}") from None
    except RecursionError:
        raise CheckpointError(f"{path}: nested too deeply") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose names are there once."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, times in Counter(n for n, _ in pairs).items() if times > 1)
        raise ValueError(f"{twice!r} is there twice")
    return found
