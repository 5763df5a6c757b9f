"""Files of a repository that make a checkpoint. Code is never among them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from models.checkpoints.weights import INDEX, SINGLE
from models.errors import CheckpointError
from models.hub.errors import in_words
from models.hub.names import HubName
from models.images import vq_decoder
from models.tokenization.tokenizer import TEXT_FILES

SMALL = ("config.json", "generation_config.json", INDEX, *TEXT_FILES)
WEIGHTS = re.compile(r"[\w.-]+\.safetensors", re.ASCII)
MOST_SMALL = 256 << 20  # bytes of a file that holds no weights


@dataclass(frozen=True)
class RemoteFile:
    """A file on the hub.

    Attributes:
        name: in the repository's top folder.
        size: bytes.
        git: SHA-1 of it as a git blob.
        sha256: of its content, where the hub stores it outside git (LFS); empty for others.
    """

    name: str
    size: int
    git: str
    sha256: str


@dataclass(frozen=True)
class Listing:
    """A repository at a commit.

    Attributes:
        name: as it was asked for.
        commit: that its revision leads to.
        files: those that a checkpoint may have, by name.
    """

    name: HubName
    commit: str
    files: dict[str, RemoteFile]

    @property
    def small(self) -> list[RemoteFile]:
        """Files without weights."""
        return [self.files[name] for name in SMALL if name in self.files]

    def weights(self, weight_map: object) -> list[RemoteFile]:
        """Files of weights: those that the index names, else the only one.

        Args:
            weight_map: of the index; None where there is no index.

        Raises:
            CheckpointError: one is missing.
        """
        shards: list[object] = [SINGLE]
        if INDEX in self.files:
            if not isinstance(weight_map, dict) or not weight_map:
                raise CheckpointError(f"{self.name}: {INDEX}: weight_map is missing")
            shards = list(dict.fromkeys(weight_map.values()))
        if vq_decoder.FILE in self.files:
            shards.append(vq_decoder.FILE)
        if absent := [shard for shard in shards if shard not in self.files]:
            raise CheckpointError(f"{self.name}: the repository has no {absent[0]}")
        return [self.files[str(shard)] for shard in shards]


def listed(name: HubName) -> Listing:
    """Ask the hub for the files of a checkpoint.

    Raises:
        CheckpointError: not there, not allowed, not reachable, or without weights that are read.
    """
    from huggingface_hub import HfApi

    with in_words(name):
        info = HfApi(library_name="xdlm-serve").model_info(
            name.repository, revision=name.revision, files_metadata=True, timeout=30
        )
        found = {}
        for each in info.siblings or ():
            if each.rfilename in SMALL or WEIGHTS.fullmatch(each.rfilename):
                sha256 = each.lfs.sha256 if each.lfs is not None else ""
                size, git = each.size, each.blob_id or ""
                if size is None or not (sha256 or git):
                    raise ValueError(f"no size or hash of {each.rfilename}")
                found[each.rfilename] = RemoteFile(each.rfilename, size, git, sha256)
        if not info.sha:
            raise ValueError("no commit")
    for file in ("config.json", SINGLE if INDEX not in found else INDEX):
        if file not in found:
            pickled = any(
                f.rfilename.endswith((".bin", ".pt", ".pth", ".ckpt")) for f in info.siblings or ()
            )
            hint = "; download it, then: xdlm convert" if pickled else ""
            raise CheckpointError(f"{name}: the repository has no {file}{hint}")
    listing = Listing(name, info.sha, found)
    for file in listing.small:
        if file.size > MOST_SMALL:
            raise CheckpointError(
                f"{name}: {file.name} has {file.size} bytes; at most {MOST_SMALL} are fetched"
            )
    return listing
