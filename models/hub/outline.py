"""A hub's checkpoint without the values of its weights."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.checkpoints.weights import INDEX, MOST_HEADER
from models.errors import CheckpointError
from models.files import read_json
from models.hub.blobs import response_from, url_of
from models.hub.errors import in_words
from models.hub.listing import Listing, RemoteFile
from models.hub.names import HubName, storage_name
from models.hub.snapshot import cached, described_by, reached

LENGTH = 8  # bytes that say how long a safetensors header is


@contextmanager
def outline(name: HubName) -> Iterator[Path]:
    """The folder of a checkpoint whose weights may be holes of their size behind their headers. It
    is the one in the cache where that is complete.

    Raises:
        CheckpointError: not there, not allowed, not reachable, or no safetensors; one line.
    """
    place = cached(name)
    if place is not None:
        yield place
        return
    listing = reached(name)
    small = described_by(listing)
    index = read_json(small / INDEX).get("weight_map") if INDEX in listing.files else None
    with tempfile.TemporaryDirectory(prefix="xdlm-") as folder:
        storage = Path(folder) / storage_name(name.repository)
        place = storage / "snapshots" / listing.commit
        place.mkdir(parents=True)
        for file in listing.small:
            shutil.copyfile(small / file.name, place / file.name)
        for file in listing.weights(index):
            with in_words(name), (place / file.name).open("wb") as out:
                out.write(_header(listing, file))
                out.truncate(file.size)
        yield place


def _header(listing: Listing, file: RemoteFile) -> bytes:
    """The first bytes of a safetensors file, up to its tensors."""
    length = int.from_bytes(_first(listing, file, LENGTH), "little")
    if not 0 < length <= min(MOST_HEADER, file.size - LENGTH):
        raise CheckpointError(
            f"{listing.name}: {file.name} has {file.size} bytes, and a header of {length}; at most "
            f"{MOST_HEADER} are read"
        )
    return _first(listing, file, LENGTH + length)


def _first(listing: Listing, file: RemoteFile, count: int) -> bytes:
    """The first bytes of a file, whether the hub sends those alone or begins with all of them."""
    data = b""
    with response_from(url_of(listing, file), 0, count - 1) as response:
        for piece in response.iter_raw():
            data += piece
            if len(data) >= count:
                break
    if len(data) < count:
        raise CheckpointError(f"{listing.name}: {file.name} ended at byte {len(data)}")
    return data[:count]
