"""Fields of a ``config.json``, read so that every error names the field."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from typing import Any

from models.errors import UnsupportedConfig

LARGEST = 2**24
"""No size of a network is larger; tables and loops are made of them before a weight is read."""


class FieldReader:
    """The fields of one ``config.json``. A field that is null counts as missing."""

    def __init__(self, raw: Mapping[str, Any], shapes: Sized | None) -> None:
        """``shapes``: of the weights, if there are any."""
        self.raw = raw
        self._weights = None if shapes is None else len(shapes)

    def given(self, field: str) -> bool:
        """Whether the field has a value."""
        return self.raw.get(field) is not None

    def size(self, field: str, default: int | None = None, least: int = 1) -> int:
        """A whole number from ``least`` up to ``LARGEST``.

        Raises:
            UnsupportedConfig: another value, or none where there is no default.
        """
        value = self._value(field, default)
        if not _whole(value) or not least <= value <= LARGEST:
            kind = "a positive integer" if least else "an integer from 0"
            raise UnsupportedConfig(f"{field} must be {kind} up to {LARGEST}, got {value!r}")
        return value

    def size_or_zero(self, field: str, wanted: bool = False) -> int:
        """A size as above; 0 where the field is missing and is not ``wanted``.

        Raises:
            UnsupportedConfig: another value, or none where one is wanted.
        """
        return self.size(field) if wanted or self.given(field) else 0

    def layers(self) -> int:
        """``num_hidden_layers``, before anything is made for each of them.

        Raises:
            UnsupportedConfig: see ``size`` and ``check_stored``.
        """
        count = self.size("num_hidden_layers")
        self.check_stored("num_hidden_layers", count)
        return count

    def check_stored(self, field: str, parts: int) -> None:
        """Refuse a network with more parts than there are weights.

        Args:
            field: the number of them, for the message.
            parts: modules with weights of their own.

        Raises:
            UnsupportedConfig: naming the field.
        """
        if self._weights is not None and parts > self._weights:
            raise UnsupportedConfig(f"{field} is {self.raw[field]}: more than there are weights")

    def number(self, field: str, default: float | None = None) -> float:
        """A positive number.

        Raises:
            UnsupportedConfig: another value, or none where there is no default.
        """
        value = self._value(field, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
            raise UnsupportedConfig(f"{field} must be a positive number, got {value!r}")
        return float(value)

    def flag(self, field: str, default: bool | None = None) -> bool:
        """True or false.

        Raises:
            UnsupportedConfig: another value, or none where there is no default.
        """
        value = self._value(field, default)
        if not isinstance(value, bool):
            raise UnsupportedConfig(f"{field} must be true or false, got {value!r}")
        return value

    def token(self, field: str, vocab_size: int, default: int | None = None) -> int:
        """An id of the vocabulary.

        Raises:
            UnsupportedConfig: another value, or none where there is no default.
        """
        value = self._value(field, default)
        if not _whole(value):
            raise UnsupportedConfig(f"{field} must be an id, got {value!r}")
        if not 0 <= value < vocab_size:
            raise UnsupportedConfig(
                f"{field} = {value} lies outside the vocabulary of {vocab_size} ids"
            )
        return value

    def only(self, **values: Any) -> None:
        """Refuse fields that are given and have another value than the one that is built.

        Raises:
            UnsupportedConfig: naming the first.
        """
        for field, value in values.items():
            if self.given(field) and self.raw[field] != value:
                raise UnsupportedConfig(
                    f"{field} = {self.raw[field]!r} is not supported, only {value!r}"
                )

    def refuse(self, *fields: str) -> None:
        """Refuse fields that change the arithmetic in ways that are not built.

        Raises:
            UnsupportedConfig: naming the first that is given.
        """
        for field in fields:
            if self.given(field):
                raise UnsupportedConfig(f"{field} = {self.raw[field]!r} is not supported")

    def _value(self, field: str, default: Any) -> Any:
        value = self.raw.get(field)
        if value is None:
            value = default
        if value is None:
            raise UnsupportedConfig(f"config.json lacks {field!r}")
        return value


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
