"""Images as tokens: the grid that they make, and what stands in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from models.base import check_positions
from models.errors import UnsupportedConfig

TokenKind = Literal["grey levels", "vq", "bytes"]
TOKEN_KINDS: tuple[str, ...] = get_args(TokenKind)

MOST_CODES, LARGEST_SCALE = 1 << 24, 1 << 7


@dataclass(frozen=True)
class ImageShape:
    """How the tokens of a canvas make an image.

    Attributes:
        height, width: of the grid, in tokens; row by row from the top left.
        channels: of the image: 1 or 3.
        tokens: ``grey levels`` (one token a pixel), ``vq`` (codes that a decoder turns into
            pixels) or ``bytes`` (one token a pixel and channel, all of a channel together).
        levels: ids below this stand in images; those from it on (the mask) never do.
        scale: pixels of a token's side; above 1 for ``vq`` alone.
    """

    height: int
    width: int
    channels: int
    tokens: TokenKind
    levels: int
    scale: int = 1

    @property
    def length(self) -> int:
        """Tokens of an image."""
        return self.height * self.width * (self.channels if self.tokens == "bytes" else 1)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.height * self.scale, self.width * self.scale

    @classmethod
    def from_dict(cls, raw: object) -> ImageShape:
        """Read the ``image`` object of a ``config.json``.

        Raises:
            UnsupportedConfig: a field missing, unknown or without sense. The message names it.
        """
        if not isinstance(raw, Mapping):
            raise UnsupportedConfig(f"image must be an object, got {raw!r}")
        known = cls.__dataclass_fields__
        if unknown := [str(name) for name in raw if name not in known]:
            raise UnsupportedConfig(f"image.{unknown[0]} is not known")
        if missing := [name for name in known if name != "scale" and name not in raw]:
            raise UnsupportedConfig(f"config.json lacks image.{missing[0]}")
        fields: dict[str, Any] = {**raw}
        shape = cls(**fields)
        shape._check()
        return shape

    def _check(self) -> None:
        for field, value in asdict(self).items():
            whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
            if field != "tokens" and not whole:
                raise UnsupportedConfig(f"image.{field} must be a positive integer, got {value!r}")
        if self.tokens not in TOKEN_KINDS:
            kinds = ", ".join(TOKEN_KINDS)
            raise UnsupportedConfig(f"image.tokens must be one of {kinds}, got {self.tokens!r}")
        allowed = {"grey levels": (1,), "vq": (3,), "bytes": (1, 3)}[self.tokens]
        if self.channels not in allowed:
            raise UnsupportedConfig(f"image.channels is {self.channels} for {self.tokens}")
        if self.tokens != "vq" and self.scale != 1:
            raise UnsupportedConfig(f"image.scale is {self.scale} for {self.tokens}, not 1")
        if self.tokens != "vq" and not 2 <= self.levels <= 256:
            raise UnsupportedConfig(f"image.levels must lie between 2 and 256, got {self.levels}")
        for field, most in (("levels", MOST_CODES), ("scale", LARGEST_SCALE)):
            if getattr(self, field) > most:
                raise UnsupportedConfig(f"image.{field} is {getattr(self, field)}, at most {most}")
        check_positions("image: height times width", self.length)
