"""How many examples a test tries: few in ``make test``, all in ``make test-all``."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import TypeVar

Case = TypeVar("Case")

THOROUGH = False
"""Set by ``--thorough`` before test modules are imported."""


def count(quick: int, thorough: int) -> int:
    """The number of examples, draws or runs of a test."""
    return thorough if THOROUGH else quick


def some(cases: Iterable[Case], every: int) -> list[Case]:
    """All cases in ``make test-all``, every few of them in ``make test``, from the first on."""
    return list(islice(cases, 0, None, count(every, 1)))
