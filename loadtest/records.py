"""Files of a run: a header, and for each cell a file of JSON lines.

    DIR/run.json             the plan and the environment
    DIR/cells/<cell>.jsonl   one request a line, a summary of the cell last
    DIR/quality.jsonl        one judged answer a line

A cell's file gets its name when the cell is finished, so an interrupted run can be resumed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from loadtest.errors import Refusal
from loadtest.files import undamaged

SCHEMA = 1


@dataclass(frozen=True)
class Record:
    """One request. Times are in seconds since the measured window of its cell began.

    Attributes:
        id: sent as ``X-Request-Id``, so that the server's log can be matched.
        number: within its cell; it determines prompt and seed, given the seed of the run.
        prompt: index into the run's prompts.
        seed: of the request.
        intended: when it was due; latency counts from here.
        sent: when the client began to send it.
        first: time of the first event, or None.
        settled: time of the first settled text, or None.
        draft: time of the first canvas without masks, or None.
        ended: time at which the answer ended or failed, or the client gave up.
        failure: kind of failure, or None.
        warm: due before the window began; such requests are not counted.
        text: the answer; base64 for images.
        tokens: number of tokens in the text, reported by the server.
        queue_ms: time in the server's queue, reported by the server; None if it is not.
        denoise_ms: time denoising, likewise.
        forwards: evaluations of the network, likewise.
        steps_taken: denoising steps, likewise.
    """

    id: str
    number: int
    prompt: int
    seed: int
    intended: float
    sent: float
    first: float | None
    settled: float | None
    draft: float | None
    ended: float
    failure: str | None
    warm: bool
    text: str
    tokens: int | None
    queue_ms: float | None
    denoise_ms: float | None
    forwards: int | None
    steps_taken: int | None

    @property
    def latency(self) -> float:
        """Seconds from when it was due to its end."""
        return self.ended - self.intended


GAVE_UP = "gave up"
"""Failure of requests that the client cancelled: the time so far is a lower bound of latency."""


@dataclass(frozen=True)
class CellSummary:
    """Facts about a cell besides its requests.

    Attributes:
        seconds: length of the measured window.
        lag_p99_ms: lateness of the client's event loop; a large value means a saturated client.
        cpu_share: CPU seconds of the client per second.
        server: increments of the server's counters over all requests, warm ones included; empty
            if it has none.
    """

    seconds: float
    lag_p99_ms: float
    cpu_share: float
    server: dict[str, float]


@dataclass(frozen=True)
class Cell:
    """A finished cell."""

    name: str
    records: list[Record]
    summary: CellSummary


class Folder:
    """A run's folder.

    Raises:
        Refusal: the folder's run has another schema, or a file is damaged.
    """

    def __init__(self, path: Path) -> None:
        """A run in ``path``; nothing is read or written yet."""
        self.path = path

    def header(self) -> dict[str, Any] | None:
        """The plan and the environment, or None if the folder has no run."""
        file = self.path / "run.json"
        if not file.exists():
            return None
        with undamaged(file):
            header = orjson.loads(file.read_bytes())
            if header.get("schema") != SCHEMA:
                raise Refusal(f"{file} has schema {header.get('schema')}; this reads {SCHEMA}")
        return header

    def begin(self, header: dict[str, Any]) -> None:
        """Write the header of a new run."""
        (self.path / "cells").mkdir(parents=True, exist_ok=True)
        self._write("run.json", [{"schema": SCHEMA, **header}], indent=True)

    def has(self, cell: str) -> bool:
        """Whether the cell is finished."""
        return (self.path / "cells" / f"{cell}.jsonl").exists()

    def keep(self, cell: Cell) -> None:
        """Write a finished cell atomically."""
        lines = [asdict(r) for r in cell.records]
        self._write(f"cells/{cell.name}.jsonl", [*lines, {"summary": asdict(cell.summary)}])

    def cells(self) -> Iterator[Cell]:
        """All finished cells."""
        for file in sorted((self.path / "cells").glob("*.jsonl")):
            with undamaged(file):
                *lines, last = (orjson.loads(line) for line in file.read_bytes().splitlines())
                records = [Record(**line) for line in lines]
                cell = Cell(file.stem, records, CellSummary(**last["summary"]))
            yield cell

    def quality(self) -> list[dict[str, Any]]:
        """All judged answers."""
        file = self.path / "quality.jsonl"
        if not file.exists():
            return []
        with undamaged(file):
            rows = [orjson.loads(line) for line in file.read_bytes().splitlines()]
            if not all({"setting", "seed"} <= {*row} for row in rows):
                raise Refusal(f"{file} is damaged: a row has no setting or no seed")
        return rows

    def keep_quality(self, rows: Iterable[dict[str, Any]]) -> None:
        """Replace all judged answers."""
        self._write("quality.jsonl", rows)

    def _write(self, name: str, rows: Iterable[Any], indent: bool = False) -> None:
        path = self.path / name
        part = path.with_name(path.name + ".part")
        option = orjson.OPT_INDENT_2 if indent else 0
        part.write_bytes(b"".join(orjson.dumps(row, option=option) + b"\n" for row in rows))
        os.replace(part, path)
