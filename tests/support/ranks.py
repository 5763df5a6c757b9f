"""Processes of a model that is split over several."""

from __future__ import annotations


def unexpected(rank: int) -> None:
    raise AssertionError(f"rank {rank} ended")
