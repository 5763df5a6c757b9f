"""Checks of values that clients hand back: each returns its value, or says where it is wrong."""

from __future__ import annotations

from typing import Any

LARGEST = 2**31 - 1


def field_of(given: dict[str, Any], name: str) -> Any:
    """A field of an object, which must be there.

    Raises:
        ValueError: it is not; says where.
    """
    if name not in given:
        raise ValueError(f"{name} is missing")
    return given[name]


def object_of(given: Any, where: str) -> dict[str, Any]:
    """A value that must be an object.

    Raises:
        ValueError: it is not; says where.
    """
    if not isinstance(given, dict):
        raise ValueError(f"{where} is no object")
    return given


def list_of(given: Any, where: str, least: int = 0, most: int | None = None) -> list[Any]:
    """A value that must be a list of ``least`` to ``most`` entries.

    Raises:
        ValueError: it is not; says where.
    """
    if not isinstance(given, list):
        raise ValueError(f"{where} is no list")
    if len(given) < least:
        raise ValueError(f"{where} has {len(given)} entries; at least {least} are needed")
    if most is not None and len(given) > most:
        raise ValueError(f"{where} has {len(given)} entries; the limit is {most}")
    return given


def whole_of(given: Any, where: str, least: int = 0, most: int = LARGEST) -> int:
    """A value that must be an integer from ``least`` to ``most``.

    Raises:
        ValueError: it is not; says where.
    """
    if type(given) is float and given.is_integer():
        given = int(given)  # JSON has one kind of number
    if type(given) is not int:
        raise ValueError(f"{where} is no integer")
    if not least <= given <= most:
        told = str(given) if abs(given) < 10**20 else "an integer of many digits"
        raise ValueError(f"{where} is {told}, not between {least} and {most}")
    return given


def text_of(given: Any, where: str) -> str:
    """A value that must be a text.

    Raises:
        ValueError: it is not; says where.
    """
    if not isinstance(given, str):
        raise ValueError(f"{where} is no text")
    return given
