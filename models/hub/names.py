"""Names of repositories on a hub, and of their snapshots in the cache."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)
REVISION = re.compile(r"[A-Za-z0-9_][\w./+-]{0,249}", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
MAIN = "main"


@dataclass(frozen=True)
class HubName:
    """A repository at a revision: a branch, a tag or a commit."""

    repository: str
    revision: str = MAIN

    def __str__(self) -> str:
        return self.repository + (f"@{self.revision}" if self.revision != MAIN else "")


def hub_name(text: str) -> HubName | None:
    """The repository that ``ORG/NAME`` or ``ORG/NAME@REVISION`` names; None for other texts."""
    repository, at, revision = text.partition("@")
    if not REPOSITORY.fullmatch(repository) or "--" in repository or ".." in text:
        return None
    if not at:
        return HubName(repository)
    return HubName(repository, revision) if REVISION.fullmatch(revision) else None


def name_of(folder: Path) -> str:
    """Name of the model in a folder: ``ORG/NAME`` of a snapshot in the cache, else the folder's."""
    place = folder.resolve()
    repository = place.parent.parent.name
    if place.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.removeprefix("models--").replace("--", "/", 1)
    return place.name


def storage_name(repository: str) -> str:
    """Name of a repository's folder in the cache."""
    return f"models--{repository.replace('/', '--')}"
