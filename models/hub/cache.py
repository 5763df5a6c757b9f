"""Lists and removes checkpoints in the cache."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from models.errors import CheckpointError
from models.hub.errors import in_words
from models.hub.names import HubName, storage_name
from models.hub.snapshot import cache, cached


@dataclass(frozen=True)
class CachedCheckpoint:
    """A snapshot in the cache.

    Attributes:
        repository: ``ORG/NAME``.
        commit: of the snapshot.
        refs: branches and tags that lead to it.
        size: bytes of its files.
        complete: whether its weights are all there.
    """

    repository: str
    commit: str
    refs: tuple[str, ...]
    size: int
    complete: bool

    def as_record(self) -> dict[str, Any]:
        """The same for JSON."""
        return asdict(self)


def cached_checkpoints() -> list[CachedCheckpoint]:
    """Snapshots in the cache that have a ``config.json``, by name."""
    found = []
    for repository in _repositories():
        for revision in repository.revisions:
            if any(file.file_name == "config.json" for file in revision.files):
                name = HubName(repository.repo_id, revision.commit_hash)
                found.append(
                    CachedCheckpoint(
                        repository.repo_id,
                        revision.commit_hash,
                        tuple(sorted(revision.refs)),
                        revision.size_on_disk,
                        cached(name) is not None,
                    )
                )
    return sorted(found, key=lambda each: (each.repository, each.commit))


def removed(name: HubName, whole: bool) -> int:
    """Delete snapshots of a repository: the one at its revision, or all.

    Returns:
        Bytes that were freed.

    Raises:
        CheckpointError: there are none, or they cannot be deleted.
    """
    from huggingface_hub import scan_cache_dir

    commits = [
        revision.commit_hash
        for repository in _repositories()
        for revision in repository.revisions
        if repository.repo_id == name.repository
        and (whole or name.revision in (revision.commit_hash, *revision.refs))
    ]
    storage = cache() / storage_name(name.repository)
    parts = sorted(storage.glob("blobs/*.xdlm-part")) if whole else []
    if not commits and not parts:
        raise CheckpointError(f"{name} is not in the cache, {cache()}")
    freed = 0
    with in_words(name):
        for part in parts:
            freed += part.stat().st_size
            part.unlink()
        if commits:
            plan = scan_cache_dir().delete_revisions(*commits)
            freed += plan.expected_freed_size
            plan.execute()
    return freed


def _repositories() -> list[Any]:
    """Repositories of models in the cache."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        return [each for each in scan_cache_dir().repos if each.repo_type == "model"]
    except CacheNotFound:
        return []
