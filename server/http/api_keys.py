"""API keys, stored as digests and compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers

MAX_FILE = 1 << 20
"""Largest size of a key file in bytes."""
KEY = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, repr=False)
class Keys:
    """The API keys that a server accepts; empty disables authentication.

    Attributes:
        digests: SHA-256 of each key.
        file: the file that they were read from, if any.
    """

    digests: tuple[bytes, ...] = ()
    file: Path | None = None

    @classmethod
    def of(cls, keys: Iterable[str]) -> Keys:
        """Digests of keys.

        Raises:
            ValueError: there is no key, or one that no header can carry.
        """
        given = list(keys)
        if not all(isinstance(key, str) for key in given):
            raise ValueError("every key must be a text; quote keys that are numbers")
        found = [key.strip() for key in given]
        if not found:
            raise ValueError("has no key; leave it out to disable authentication")
        if not all(KEY.fullmatch(key) for key in found):
            raise ValueError("a key must be printable ASCII without blanks, and not empty")
        return cls(tuple(dict.fromkeys(_digest(key.encode()) for key in found)))

    @classmethod
    def read(cls, path: Path) -> Keys:
        """Keys of a file, one a line; empty lines and comments (#) are skipped.

        Raises:
            ValueError: as ``of``, or the file cannot be read.
        """
        try:
            with path.open("rb") as file:
                data = file.read(MAX_FILE + 1)
            if len(data) > MAX_FILE:
                raise ValueError(f"cannot read {path}: it has more than {MAX_FILE} bytes")
            lines = [line.strip() for line in data.decode("utf-8-sig").splitlines()]
        except OSError as error:
            raise ValueError(f"cannot read {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ValueError(f"cannot read {path}: not UTF-8") from None
        keys = cls.of(line for line in lines if line and not line.startswith("#"))
        return replace(keys, file=path)

    def accept(self, authorization: str) -> bool:
        """Whether an ``Authorization`` header has one of the keys; all keys are compared."""
        scheme, _, _ = authorization.partition(" ")
        given = digest_of(authorization)
        fits = [hmac.compare_digest(given, digest) for digest in self.digests]
        return any(fits) and scheme.lower() == "bearer"

    def __or__(self, other: Keys) -> Keys:
        return Keys(self.digests + other.digests)

    def __bool__(self) -> bool:
        return bool(self.digests)

    def __repr__(self) -> str:
        return f"Keys({len(self.digests)})"


def owner_of(scope: Mapping[str, Any]) -> bytes:
    """The digest of a request's key, which owns its recordings; empty without authentication."""
    return scope.get("owner", b"")


def presented(headers: Headers) -> str | None:
    """The key of a request in the form of an ``Authorization`` header.

    Without that header, ``api-key`` or ``x-api-key`` are read, as Azure's and Anthropic's clients
    send them.
    """
    given = headers.get("authorization")
    if given is not None:
        return given
    bare = headers.get("api-key", headers.get("x-api-key"))
    return None if bare is None else f"Bearer {bare}"


def digest_of(authorization: str) -> bytes:
    """Digest of the key in an ``Authorization`` header."""
    return _digest(authorization.partition(" ")[2].strip().encode("latin-1"))


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def readable_by_others(file: Path) -> int | None:
    """The mode of a file that others than its owner can read; None if only the owner can.

    For a file of root and a process of another user, the group is allowed: it reads by that group.
    """
    try:
        found = file.stat()
    except OSError:
        return None
    others = 0o007 if found.st_uid == 0 != os.geteuid() else 0o077
    mode = stat.S_IMODE(found.st_mode)
    return mode if stat.S_ISREG(found.st_mode) and mode & others else None
