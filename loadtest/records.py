"""What a run leaves on disk: a header, and for each cell a file of JSON lines.

    DIR/run.json             the plan and the environment
    DIR/cells/<cell>.jsonl   one request a line, a summary of the cell last
    DIR/quality.jsonl        one scored answer a line

A cell's file appears under its name when the cell is over, so a run that was cut off can go on.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from loadtest.errors import Refusal

SCHEMA = 1


@dataclass(frozen=True)
class Record:
    """One request. Times are in seconds since the measured window of its cell began.

    Attributes:
        id: sent as ``X-Request-Id``, so that a server's log names the same request.
        number: within its cell; with the seed of the run it fixes prompt and seed of the request.
        prompt: which of the run's prompts.
        seed: of the request.
        intended: when it was due. Latency counts from here.
        sent: when the client began to send it.
        first: the first event, or None.
        settled: the first settled text.
        draft: the first canvas without masks.
        ended: the end of the answer, of the failure, or the time at which the client gave up.
        failure: its kind, or None.
        warm: due before the window began; such requests are not counted.
        text: what was written.
        tokens: in the text, by the server's account.
        queue_ms: in the server's queue, by its own account; None where it gives none.
        denoise_ms: likewise.
        forwards: evaluations of the network.
        steps_taken: denoising steps that were taken.
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
        """From the moment it was due, in seconds."""
        return self.ended - self.intended


GAVE_UP = "gave up"
"""A request that the client no longer waited for: its latency is known to be longer."""


@dataclass(frozen=True)
class CellSummary:
    """What is known about a cell beside its requests.

    Attributes:
        seconds: length of the measured window.
        lag_p99_ms: how late the client's event loop was; large values mean that it was saturated.
        cpu_share: CPU seconds of the client for each second.
        server: what the server's own counters grew by from the first request to the last, warm
            ones included; empty where it has none.
    """

    seconds: float
    lag_p99_ms: float
    cpu_share: float
    server: dict[str, float]


@dataclass(frozen=True)
class Cell:
    """A finished cell, as it was read back."""

    name: str
    records: list[Record]
    summary: CellSummary


class Folder:
    """A run's folder.

    Raises:
        Refusal: it holds what this version cannot read, or no run.
    """

    def __init__(self, path: Path) -> None:
        """Nothing is read or written yet."""
        self.path = path

    def header(self) -> dict[str, Any] | None:
        """The plan and the environment, or None where the folder has no run."""
        file = self.path / "run.json"
        if not file.exists():
            return None
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
        """Write a finished cell, whole or not at all."""
        lines = [asdict(r) for r in cell.records]
        self._write(f"cells/{cell.name}.jsonl", [*lines, {"summary": asdict(cell.summary)}])

    def cells(self) -> Iterator[Cell]:
        """All finished cells."""
        for file in sorted((self.path / "cells").glob("*.jsonl")):
            *lines, last = (orjson.loads(line) for line in file.read_bytes().splitlines())
            records = [Record(**line) for line in lines]
            yield Cell(file.stem, records, CellSummary(**last["summary"]))

    def quality(self) -> list[dict[str, Any]]:
        """All scored answers."""
        file = self.path / "quality.jsonl"
        if not file.exists():
            return []
        return [orjson.loads(line) for line in file.read_bytes().splitlines()]

    def keep_quality(self, rows: Iterable[dict[str, Any]]) -> None:
        """Write all scored answers, in place of those that were there."""
        self._write("quality.jsonl", rows)

    def _write(self, name: str, rows: Iterable[Any], indent: bool = False) -> None:
        path = self.path / name
        part = path.with_name(path.name + ".part")
        option = orjson.OPT_INDENT_2 if indent else 0
        part.write_bytes(b"".join(orjson.dumps(row, option=option) + b"\n" for row in rows))
        os.replace(part, path)
