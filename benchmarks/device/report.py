"""Records of a run, written line by line, with a time box for each section."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from benchmarks.device.predictions import PREDICTED_KERNELS, PREDICTED_SECONDS

TABLE_LINES = 60
OUT_OF_TIME = "skipped: out of time"


@dataclass
class Report:
    """Collects records and writes each as a line of JSON as soon as it is there.

    A variant that failed a verification is marked ``ok: false`` in all later records.

    Attributes:
        file: receives the lines.
        device: the device's name, part of every record.
        deadline: when the whole run is to end, by the monotonic clock.
        section, section_deadline: the current section's number, and when it is to end.
    """

    file: IO[str]
    device: str
    deadline: float
    section: int = 0
    section_deadline: float = 0.0
    records: list[dict[str, Any]] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def begin(self, section: int, seconds: float) -> None:
        """Start a section with a time box in seconds."""
        self.section = section
        self.section_deadline = min(self.deadline, time.monotonic() + seconds)

    @property
    def has_time(self) -> bool:
        """Whether the current section's time box has time left."""
        return time.monotonic() < self.section_deadline

    def add(
        self,
        case: str,
        variant: str = "",
        *,
        seconds: Sequence[float] = (),
        kernels: float | None = None,
        busy_ms: float | None = None,
        peak_mib: float | None = None,
        ok: bool = True,
        note: str = "",
    ) -> None:
        """Write a record.

        Args:
            case: the work that was measured or verified.
            variant: the implementation.
            seconds: of each run.
            kernels: launched in a step; on a CPU, operations dispatched.
            busy_ms: milliseconds of a step in which the device worked.
            peak_mib: peak memory of the device.
            ok: false where a verification failed or a figure is not to be used.
            note: anything else.
        """
        if variant in self.failed and ok:
            ok, note = False, f"{note}; failed: {self.failed[variant]}".removeprefix("; ")
        record = {
            "section": self.section,
            "case": case,
            "variant": variant,
            "device": self.device,
            "seconds": [round(s, 6) for s in seconds],
            "kernels": kernels,
            "busy_ms": busy_ms,
            "peak_mib": peak_mib,
            "ok": ok,
            "note": note,
        }
        self.records.append(record)
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()
        print(line_of(record), flush=True)

    def verify(self, case: str, variant: str, ok: bool, note: str) -> None:
        """Record a verification; after a failed one the variant's figures are not ok."""
        self.add(case, variant, ok=ok, note=note)
        if not ok and variant:
            self.failed.setdefault(variant, f"{case}, {note}")

    def skip(self, case: str, variant: str = "", why: str = OUT_OF_TIME) -> None:
        """Record work that was not done."""
        self.add(case, variant, note=why)

    def table(self) -> list[str]:
        """At most ``TABLE_LINES`` lines, results beside predictions; figures before the rest."""
        rows = [r for r in self.records if not r["note"].startswith("skipped")]
        skipped = len(self.records) - len(rows)
        room = TABLE_LINES - 2
        if len(rows) > room:  # failures and figures stay
            rows = sorted(rows, key=lambda r: r["ok"] and not r["seconds"] and not r["kernels"])
            rows = sorted(rows[:room], key=lambda r: r["section"])
        failures = sum(not r["ok"] for r in self.records)
        last = f"{len(self.records)} records, {failures} not ok, {skipped} skipped"
        head = f"{'§':>2} {'case':30} {'variant':10} {'median':>10} {'predicted':>10}  more"
        return [head, *map(line_of, rows), last]


def line_of(record: dict[str, Any]) -> str:
    """One record as a line of the table."""
    key = (record["case"], record["variant"])
    seconds, kernels = record["seconds"], record["kernels"]
    median = f"{statistics.median(seconds):.4g} s" if seconds else ""
    predicted = f"{PREDICTED_SECONDS[key]:.4g} s" if key in PREDICTED_SECONDS else ""
    if kernels is not None and not seconds:
        median = f"{kernels:.0f} k."
        predicted = f"{PREDICTED_KERNELS[key]:.0f} k." if key in PREDICTED_KERNELS else ""
    more = [] if record["ok"] else ["NOT OK"]
    if seconds and kernels is not None:
        more.append(f"{kernels:.0f} kernels")
    if record["busy_ms"] is not None:
        more.append(f"busy {record['busy_ms']:.2f} ms")
    if record["peak_mib"]:
        more.append(f"{record['peak_mib']:.0f} MiB")
    more.append(record["note"])
    head = f"{record['section']:>2} {record['case']:30.30} {record['variant']:10.10}"
    return f"{head} {median:>10} {predicted:>10}  {'; '.join(filter(None, more))}"[:160].rstrip()
