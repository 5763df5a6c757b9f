"""API keys: kept as digests, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers

KEY = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, repr=False)
class Keys:
    """The keys that a server accepts; none means that it asks for none.

    Attributes:
        digests: SHA-256 of each.
        file: where they were read from, if from a file.
    """

    digests: tuple[bytes, ...] = ()
    file: Path | None = None

    @classmethod
    def of(cls, keys: Iterable[str]) -> Keys:
        """Digests of keys.

        Raises:
            ValueError: there is no key, or one that no header can carry. Tells none of them.
        """
        found = [key.strip() for key in keys]
        if not found:
            raise ValueError("holds no key; leave it out for a server that asks for none")
        if not all(KEY.fullmatch(key) for key in found):
            raise ValueError("a key must be printable ASCII without blanks, and not empty")
        return cls(tuple(dict.fromkeys(_digest(key.encode()) for key in found)))

    @classmethod
    def read(cls, path: Path) -> Keys:
        """Keys of a file, one a line; empty lines and those that begin with # are skipped.

        Raises:
            ValueError: as ``of``, or the file cannot be read.
        """
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except OSError as error:
            raise ValueError(f"cannot read {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ValueError(f"cannot read {path}: not UTF-8") from None
        keys = cls.of(line for line in lines if line and not line.startswith("#"))
        return replace(keys, file=path)

    def accept(self, authorization: str) -> bool:
        """Whether the value of an ``Authorization`` header holds one of the keys. All are compared,
        whichever fits.
        """
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
    """Whose request this is: the digest of its key; empty on a server that asks for none."""
    return scope.get("owner", b"")


def presented(headers: Headers) -> str | None:
    """The key of a request as an ``Authorization`` header has it. Clients made for Azure and
    Anthropic send it bare, as ``api-key`` or ``x-api-key``; it counts where the other is missing.
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
