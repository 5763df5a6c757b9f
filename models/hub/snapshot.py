"""Snapshots of repositories: found in the cache, or fetched into it."""

from __future__ import annotations

import hashlib
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from models.checkpoints.weights import INDEX, SINGLE
from models.errors import CheckpointError
from models.files import read_json
from models.hub.blobs import blob_of, fetch_blob, size_here, wrong_hash
from models.hub.errors import HubUnreachable, in_words
from models.hub.listing import Listing, RemoteFile, listed
from models.hub.names import COMMIT, HubName, storage_name
from models.progress import SILENT, Progress, Work
from models.sizes import bytes_text

CONNECTIONS = 4  # files fetched at once
_fetched: dict[HubName, Path] = {}


def snapshot(name: HubName, progress: Progress = SILENT) -> Path:
    """The folder of a repository in the cache, after what it lacks has been fetched. The hub is
    asked once in a process.

    Raises:
        CheckpointError: neither in the cache nor fetched; one line.
    """
    if name not in _fetched:
        _fetched[name] = _snapshot(name, progress)
    return _fetched[name]


def _snapshot(name: HubName, progress: Progress) -> Path:
    place = cached(name)
    if place is not None and COMMIT.fullmatch(name.revision):  # cannot have changed
        return place
    if place is None:
        return fetched(reached(name), progress)
    try:
        listing = listed(name)
    except HubUnreachable as error:
        if not offline():
            progress.note(f"{error}; the cached commit {place.name[:12]} is taken")
        return place
    return fetched(listing, progress)


def reached(name: HubName) -> Listing:
    """Ask the hub for the files of a checkpoint that is not in the cache.

    Raises:
        CheckpointError: as ``listed``.
    """
    try:
        return listed(name)
    except HubUnreachable as error:
        raise HubUnreachable(f"{error}; it is not in the cache, {cache()}") from None


def cache() -> Path:
    """The folder of all repositories."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def endpoint() -> str:
    """The address of the hub."""
    from huggingface_hub import constants

    return constants.ENDPOINT


def offline() -> bool:
    """Whether the hub is not asked, by HF_HUB_OFFLINE."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def cached(name: HubName) -> Path | None:
    """The folder of a repository in the cache, as far as it is complete there."""
    storage = cache() / storage_name(name.repository)
    commit = name.revision
    try:
        if not COMMIT.fullmatch(commit):
            commit = (storage / "refs" / name.revision).read_text(encoding="ascii").strip()
        place = storage / "snapshots" / commit
        index = read_json(place / INDEX, required=False).get("weight_map", {"": SINGLE})
        names = ["config.json", *map(str, index.values())]
    except (OSError, ValueError, AttributeError, CheckpointError):
        return None
    return place if all((place / each).is_file() for each in names) else None


def fetched(listing: Listing, progress: Progress = SILENT) -> Path:
    """The folder of a listing's snapshot, after what it lacks has been fetched.

    Raises:
        CheckpointError: in one line: no space, no network, another content than the hub says, or an
            index of files that are not there.
    """
    place = described_by(listing)
    storage = place.parent.parent
    index = read_json(place / INDEX).get("weight_map") if INDEX in listing.files else None
    weights = listing.weights(index)
    missing = [file for file in weights if not (place / file.name).exists()]
    if missing:
        _fetch_weights(listing, weights, storage, progress)
        with in_words(listing.name):
            for file in missing:
                _linked(listing, file, place)
    with suppress(OSError):  # a cache that cannot be written to; the hub is asked the next time too
        _point(storage / "refs" / listing.name.revision, listing)
    return place


def described_by(listing: Listing) -> Path:
    """The folder of a listing's snapshot, with all of its files but the weights."""
    storage = cache() / storage_name(listing.name.repository)
    place = storage / "snapshots" / listing.commit
    with in_words(listing.name):
        for file in listing.small:
            if (place / file.name).exists():
                continue
            if file.sha256:
                fetch_blob(listing, file, storage, SILENT, threading.Event())
            _linked(listing, file, place)
    return place


def _fetch_weights(
    listing: Listing, weights: list[RemoteFile], storage: Path, progress: Progress
) -> None:
    """Bring the weights into the cache, several files at once."""
    size = sum(file.size for file in weights)
    have = sum(size_here(storage, file) for file in weights)
    check_space(listing.name, size - have, storage)
    here = f", {bytes_text(have)} of them in the cache" if have else ""
    progress.note(
        f"{listing.name}: downloading {len(weights)} files of weights, {bytes_text(size)}{here}, "
        f"from {endpoint()} at {listing.commit[:12]} into {cache()}"
    )
    name = str(listing.name)
    work = Work(name, "downloading", "downloaded", size, have=have, brief=False)
    stop = threading.Event()
    pool = ThreadPoolExecutor(CONNECTIONS, "xdlm-hub")
    with progress.of(work), in_words(listing.name):
        try:
            waiting = [
                pool.submit(fetch_blob, listing, file, storage, progress, stop)
                for file in weights
                if file.sha256
            ]
            for each in waiting:
                each.result()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def check_space(name: HubName, size: int, folder: Path) -> None:
    """Refuse a download that the disk of a folder has no room for.

    Raises:
        CheckpointError: with both numbers.
    """
    free = shutil.disk_usage(folder).free
    if size > free:
        raise CheckpointError(
            f"{name}: {size} bytes are to be fetched, and {folder} has {free} free"
        )


def _linked(listing: Listing, file: RemoteFile, place: Path) -> None:
    """Put a file into its snapshot: its content from the cache, else from the hub, and checked."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    repository, commit = listing.name.repository, listing.commit
    hf_hub_download(repository, file.name, revision=commit, library_name="xdlm-serve")
    link = place / file.name
    content = link.resolve()
    if file.sha256 and content == blob_of(place.parent.parent, file).resolve():
        return
    found = _hash_of(content, file)
    if found != (file.sha256 or file.git):
        link.unlink()
        content.unlink(missing_ok=True)
        raise wrong_hash(listing, file, found)


def _hash_of(content: Path, file: RemoteFile) -> str:
    """Hash of a file, by SHA-256 or as a git blob, as the hub names it."""
    with content.open("rb") as stream:
        if file.sha256:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        digest = hashlib.sha1(b"blob %d\0" % content.stat().st_size, usedforsecurity=False)
        return hashlib.file_digest(stream, lambda: digest).hexdigest()


def _point(ref: Path, listing: Listing) -> None:
    """Let a branch or tag lead to a complete snapshot."""
    if COMMIT.fullmatch(listing.name.revision):
        return
    if ref.is_file() and ref.read_text(encoding="ascii").strip() == listing.commit:
        return
    ref.parent.mkdir(parents=True, exist_ok=True)
    ref.write_text(listing.commit, encoding="ascii")
