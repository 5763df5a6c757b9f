"""How many examples a test tries: few in ``make test``, all in ``make test-all``."""

from __future__ import annotations

THOROUGH = False
"""Set by ``--thorough`` before test modules are imported."""


def count(quick: int, thorough: int) -> int:
    """The number of examples, draws or runs of a test."""
    return thorough if THOROUGH else quick
