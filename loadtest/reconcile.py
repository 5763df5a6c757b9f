"""Finds lost requests: compares the client's records with the server's log and counters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import orjson

from loadtest.answer_reader import Kind
from loadtest.records import GAVE_UP, Cell

LEFT = (GAVE_UP, "timeout", "cut")
"""Failures after which the server may have counted the request as succeeded, or not."""


@dataclass(frozen=True)
class Reconciliation:
    """Requests of a run in the client's records and in the server's log.

    Attributes:
        sent: number of requests that the client sent.
        logged: number of them that are in the log.
        missing: ids that are not in the log.
        twice: ids that are in the log more than once.
        unlike: ids whose status in the log does not match the client's record.
    """

    sent: int
    logged: int
    missing: list[str]
    twice: list[str]
    unlike: list[str]

    @property
    def agrees(self) -> bool:
        """Whether there are no differences."""
        return not (self.missing or self.twice or self.unlike)


def against_log(cells: Iterable[Cell], lines: Iterable[str]) -> Reconciliation:
    """Compare with a log of JSON lines. Lines without ``request_id`` and ``status`` are skipped."""
    statuses: dict[str, list[int]] = {}
    for line in lines:
        try:
            entry = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if isinstance(entry, dict) and "request_id" in entry and "status" in entry:
            statuses.setdefault(entry["request_id"], []).append(entry["status"])
    records = [r for cell in cells for r in cell.records if r.failure != "connect"]
    known = [r for r in records if r.id in statuses]
    return Reconciliation(
        sent=len(records),
        logged=len(known),
        missing=[r.id for r in records if r.id not in statuses],
        twice=[r.id for r in known if len(statuses[r.id]) > 1],
        unlike=[r.id for r in known if not _alike(r.failure, statuses[r.id])],
    )


def _alike(failure: str | None, statuses: list[int]) -> bool:
    if failure is None:
        return statuses == [200]
    return not failure.startswith("HTTP ") or statuses == [int(failure.split()[1])]


def against_counters(cell: Cell, kind: Kind) -> str | None:
    """A message if the server's counters disagree with the client's records of a cell; None if they
    agree or the server has none. Requests of other clients at the same time count as differences.
    """
    name = "ended" if kind == "images" else "ok"
    if name not in cell.summary.server:
        return None
    ok = sum(r.failure is None for r in cell.records)
    left = sum(r.failure in LEFT for r in cell.records)
    counted = int(cell.summary.server[name])
    if ok <= counted <= ok + left:
        return None
    return f"{cell.name}: the client has {ok} answers, the server counts {counted}"
