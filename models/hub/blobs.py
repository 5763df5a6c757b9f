"""Contents of large files, fetched into the cache of ``huggingface_hub``.

The bytes that have come are kept whatever ends the download, and the next one goes on behind them.
A file gets its place in the cache only once its SHA-256 is the one that the hub names.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from models.errors import CheckpointError
from models.hub.listing import Listing, RemoteFile
from models.progress import Progress

PIECE = 1 << 20  # bytes of a file read at once
TRIES = 5  # failures without a byte between them before a download fails
FIRST_PAUSE = 0.5  # seconds before the second try; doubles with each


def url_of(listing: Listing, file: RemoteFile) -> str:
    """Where a file is at the commit of a listing."""
    from huggingface_hub import hf_hub_url

    return hf_hub_url(listing.name.repository, file.name, revision=listing.commit)


@contextmanager
def response_from(url: str, first: int, last: int | None = None) -> Iterator[Any]:
    """The answer of the hub with the bytes of a file from ``first`` to ``last``, both included."""
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    headers = build_hf_headers(library_name="xdlm-serve") | {"Accept-Encoding": "identity"}
    if first or last is not None:
        headers["Range"] = f"bytes={first}-{'' if last is None else last}"
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream("GET", url, headers=headers, timeout=timeout) as response:
        hf_raise_for_status(response)
        yield response


def size_here(storage: Path, file: RemoteFile) -> int:
    """Bytes of a file's content that the cache has."""
    for place in (blob_of(storage, file), _part_of(storage, file)):
        if place.is_file():
            return min(place.stat().st_size, file.size)
    return 0


def blob_of(storage: Path, file: RemoteFile) -> Path:
    """Where the cache holds the content of a file."""
    return storage / "blobs" / file.sha256


def _part_of(storage: Path, file: RemoteFile) -> Path:
    return storage / "blobs" / f"{file.sha256}.xdlm-part"


def fetch_blob(
    listing: Listing, file: RemoteFile, storage: Path, progress: Progress, stop: threading.Event
) -> None:
    """Bring a file's content into the cache, unless it is there or ``stop`` is set.

    Raises:
        CheckpointError: the content is not what the hub's list of files says.
        OSError: no space, no permission.
    """
    blob, part = blob_of(storage, file), _part_of(storage, file)
    if blob.is_file():
        return
    blob.parent.mkdir(parents=True, exist_ok=True)
    with part.open("ab+") as out:
        fcntl.flock(out, fcntl.LOCK_EX)  # another process may fetch it; then it is there after this
        if blob.is_file():
            return
        digest = _filled(url_of(listing, file), file, out, progress, stop)
        if digest is None:
            return
        if digest != file.sha256:
            part.unlink()
            raise wrong_hash(listing, file, digest)
        os.replace(part, blob)


def wrong_hash(listing: Listing, file: RemoteFile, found: str) -> CheckpointError:
    """The error of a file with another content than the hub's list of files says."""
    kind, wanted = ("SHA-256", file.sha256) if file.sha256 else ("git hash", file.git)
    return CheckpointError(
        f"{listing.name}: {file.name} has the {kind} {found}, and the hub names {wanted}; it was "
        "deleted"
    )


def _filled(
    url: str, file: RemoteFile, out: BinaryIO, progress: Progress, stop: threading.Event
) -> str | None:
    """Append what is missing, over several connections if they break; its SHA-256 in the end, or
    None if ``stop`` was set.
    """
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    out.seek(0)
    digest = hashlib.sha256()
    while piece := out.read(PIECE):
        digest.update(piece)
    failures = 0
    while (have := out.tell()) < file.size:
        try:
            with response_from(url, have) as response:
                if have and response.status_code != 206:  # the whole file, from its first byte
                    out.truncate(0)
                    out.seek(0)
                    digest = hashlib.sha256()
                    progress.advance(-have)
                # as they come: no byte is lost with the connection
                for piece in response.iter_raw():
                    if stop.is_set():
                        return None
                    out.write(piece)
                    digest.update(piece)
                    progress.advance(len(piece))
                    failures = 0
                if out.tell() < file.size:
                    raise httpx2.ReadError(f"{file.name} ended at byte {out.tell()}")
        except (httpx2.TransportError, HfHubHTTPError) as error:
            failures += 1
            lasting = isinstance(error, HfHubHTTPError) and error.response.status_code < 500
            if lasting or failures == TRIES:
                raise
            if stop.wait(FIRST_PAUSE * 2 ** (failures - 1)):
                return None
        finally:
            out.flush()
    return digest.hexdigest()
