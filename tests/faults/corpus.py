"""Checkpoint folders that are broken, lie, or mean harm: each function spoils a good one."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
Spoil = Callable[[Path], None]


def edit(name: str, **fields: Any) -> Spoil:
    """Put fields into a JSON file of the folder."""

    def spoil(folder: Path) -> None:
        path = folder / name
        held = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**held, **fields}))

    return spoil


def many_ids(name: str, count: int) -> Spoil:
    """Give the tokenizer that many ids; they take hundreds of megabytes while they are made."""

    def spoil(folder: Path) -> None:
        ids = {f"{i:x}": i for i in range(count)}
        edit(name, model={"type": "BPE", "merges": [], "vocab": ids})(folder)

    return spoil


def write(name: str, content: str | bytes) -> Spoil:
    """Put a file into the folder."""

    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return spoil


def link(name: str, *, to: str | None = None) -> Spoil:
    """Replace a file by a link: to the same content outside the folder, if not elsewhere."""

    def spoil(folder: Path) -> None:
        path, outside = folder / name, folder.parent / f"outside-{name}"
        if path.exists():
            path.rename(outside)
        else:
            outside.write_text("{}")
        path.symlink_to(to or outside)

    return spoil


def pipe(name: str) -> Spoil:
    """Replace a file by a pipe that nobody writes to."""

    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return spoil


def sparse(name: str, size: int) -> Spoil:
    """A file of many zeros that take no place on the disk."""

    def spoil(folder: Path) -> None:
        with (folder / name).open("wb") as file:
            file.truncate(size)

    return spoil


def both(one: Spoil, other: Spoil) -> Spoil:
    """One thing after the other."""

    def spoil(folder: Path) -> None:
        one(folder)
        other(folder)

    return spoil


def shard(name: str) -> Spoil:
    """An index that says the weights are in this file; where the name leads out of the folder, they
    are there.
    """

    def spoil(folder: Path) -> None:
        keys = [k for k in header(folder) if k != "__metadata__"]
        outside = folder.parent / "outside.safetensors"
        (folder / WEIGHTS).rename(outside)
        held = name.replace("OUTSIDE", str(outside))
        (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(keys, held)}))

    return spoil


def header(folder: Path) -> dict[str, Any]:
    """The JSON that a safetensors file begins with."""
    content = (folder / WEIGHTS).read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length])


def claimed(
    change: Callable[[dict[str, Any]], str | bytes | None], length: int | None = None
) -> Spoil:
    """Change the header and leave the tensors; ``length`` is what the file says of its size."""

    def spoil(folder: Path) -> None:
        path = folder / WEIGHTS
        content = path.read_bytes()
        (old,) = struct.unpack("<Q", content[:8])
        held = json.loads(content[8 : 8 + old])
        told = change(held)
        text = json.dumps(held).encode() if told is None else told
        text = text.encode() if isinstance(text, str) else text
        said = len(text) if length is None else length
        path.write_bytes(struct.pack("<Q", said) + text + content[8 + old :])

    return spoil


def first(held: dict[str, Any]) -> dict[str, Any]:
    """The first tensor of a header."""
    return next(value for name, value in held.items() if name != "__metadata__")


def offsets(begin: int, end: int) -> Spoil:
    """A first tensor that claims these bytes."""
    return claimed(lambda held: first(held).update(data_offsets=[begin, end]))


def overlapping(held: dict[str, Any]) -> None:
    """All tensors of a shape at the place of the first."""
    places: dict[str, Any] = {}
    for name, tensor in held.items():
        if name != "__metadata__":
            tensor["data_offsets"] = places.setdefault(str(tensor["shape"]), tensor["data_offsets"])


def not_finite(folder: Path) -> None:
    """Weights that are all NaN: every header is in order."""
    path = folder / WEIGHTS
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    nan = struct.pack("<f", float("nan"))
    path.write_bytes(content[: 8 + length] + nan * ((len(content) - 8 - length) // 4))


def payload(canary: Path) -> bytes:
    """A pickle that touches a file when it is loaded as Python loads pickles."""

    class Touch:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {canary}",)

    return pickle.dumps({"state_dict": Touch(), "ema": {"shadow_params": [Touch()]}})


def pickled(name: str) -> Spoil:
    """Only a pickle for weights, in PyTorch's zip format; the safetensors file is gone."""

    def spoil(folder: Path) -> None:
        (folder / WEIGHTS).unlink(missing_ok=True)
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr("archive/data.pkl", payload(folder.parent / "canary"))
            archive.writestr("archive/version", "3")

    return spoil


def bare_pickle(name: str) -> Spoil:
    """The same without the zip file around it, and under any name."""

    def spoil(folder: Path) -> None:
        (folder / WEIGHTS).unlink(missing_ok=True)
        (folder / name).write_bytes(payload(folder.parent / "canary"))

    return spoil


def twice(count: int) -> str:
    """An object of so many names, the last of them twice."""
    names = ",".join(f'"k{i}":0' for i in range(count))
    return f'{{{names},"k{count - 1}":0}}'


def deep(open_: str = "[", close: str = "]", depth: int = 200_000) -> str:
    """JSON inside JSON inside JSON."""
    return open_ * depth + close * depth
