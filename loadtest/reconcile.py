"""Whether any request was lost: the client's records against the server's log and its counters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import orjson

from loadtest.records import GAVE_UP, Cell
from loadtest.sse import Kind

LEFT = (GAVE_UP, "timeout", "cut")
"""Failures after which the server may have counted the request as anything."""


@dataclass(frozen=True)
class Account:
    """Requests of a run, as the client and the server's log have them.

    Attributes:
        sent: by the client.
        logged: of those, how many the log has, each once.
        missing: ids that the log does not have.
        twice: ids that it has more than once.
        unlike: ids that ended well for one side and not for the other.
    """

    sent: int
    logged: int
    missing: list[str]
    twice: list[str]
    unlike: list[str]

    @property
    def agrees(self) -> bool:
        """Nothing was lost, doubled or told differently."""
        return not (self.missing or self.twice or self.unlike)


def against_log(cells: Iterable[Cell], lines: Iterable[str]) -> Account:
    """Compare with a log of JSON lines that have ``request_id`` and ``status``; what is not such a
    line is passed over.
    """
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
    return Account(
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
    """What the server's counters say otherwise than the client about a cell; None where they agree
    or where there are none. Somebody else's requests at the same time show here too.
    """
    name = "ended" if kind == "images" else "ok"
    if name not in cell.summary.server:
        return None
    ok = sum(r.failure is None for r in cell.records)
    left = sum(r.failure in LEFT for r in cell.records)
    told = int(cell.summary.server[name])
    if ok <= told <= ok + left:
        return None
    return f"{cell.name}: the client has {ok} answers, the server counts {told}"
