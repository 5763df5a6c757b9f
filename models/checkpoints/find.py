"""Checkpoints by their names: bundled, folders, or a hub's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from models.bundled import BUNDLED, bundled_names
from models.errors import CheckpointError
from models.hub.names import HubName, hub_name
from models.hub.outline import outline
from models.hub.snapshot import snapshot
from models.progress import SILENT, Progress


def find_checkpoint(name_or_path: str, progress: Progress = SILENT) -> Path:
    """The folder of a bundled checkpoint's name, the path itself, or the folder in the cache that
    a hub's ``ORG/NAME[@REVISION]`` has been fetched into. A folder on disk comes before a hub.

    Raises:
        CheckpointError: none of them.
    """
    place = _here(name_or_path)
    if isinstance(place, HubName):
        return snapshot(place, progress)
    return place


@contextmanager
def checkpoint_outline(name_or_path: str) -> Iterator[Path]:
    """The folder of a checkpoint without the values of its weights: of a hub's checkpoint that is
    not in the cache yet, the headers alone are fetched.

    Raises:
        CheckpointError: as ``find_checkpoint``.
    """
    place = _here(name_or_path)
    if isinstance(place, HubName):
        with outline(place) as folder:
            yield folder
    else:
        yield place


def _here(name_or_path: str) -> Path | HubName:
    """A folder of this machine, or what could be a hub's name."""
    if name_or_path in bundled_names():
        return BUNDLED / name_or_path
    path = Path(name_or_path)
    with suppress(OSError, ValueError):  # too long for a name; a NUL
        if path.is_dir():
            return path
    if (name := hub_name(name_or_path)) is not None:
        return name
    bundled = ", ".join(bundled_names())
    raise CheckpointError(f"no checkpoint at {name_or_path!r}; bundled ones: {bundled}")
