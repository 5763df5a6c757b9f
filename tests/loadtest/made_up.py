"""A run that never was, with figures that can be worked out on paper."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from loadtest.plan import Load, Plan, Planned, Setting, Workload
from loadtest.records import Cell, CellSummary, Folder, Record

Make = Callable[[Planned], list[Record]]


def record(number: int, at: float, latency: float, failure: str | None = None, **more) -> Record:
    """A request that was due at ``at``."""
    given = {
        "id": f"made-{number}",
        "number": number,
        "prompt": 0,
        "seed": number,
        "intended": at,
        "sent": at,
        "first": None,
        "settled": None if failure else at + latency / 2,
        "draft": None,
        "ended": at + latency,
        "failure": failure,
        "warm": at < 0,
        "text": "" if failure else "a text",
        "tokens": None if failure else 10,
        "queue_ms": None if failure else 1e3 * latency / 4,
        "denoise_ms": None if failure else 1e3 * latency / 2,
        "forwards": 4,
        "steps_taken": 4,
    }
    return Record(**{**given, **more})


def plan_of(
    steps: tuple[int, ...], loads: tuple[Load, ...], repeats: int = 1, duration: float = 10
) -> Plan:
    return Plan(
        workload=Workload("completions", "stub", ("Once",), 8, {}),
        settings=tuple(Setting(s, None) for s in steps),
        loads=loads,
        repeats=repeats,
        warmup=1,
        duration=duration,
        drain=5,
        timeout=30,
        max_requests=1000,
    )


def write(folder: Path, plan: Plan, make: Make, quality: list[dict] | None = None) -> Folder:
    """The folder of a run whose cells are what ``make`` says."""
    found = Folder(folder)
    environment = {
        "server": None,
        "model": {"id": "stub", "diffusion": {}},
        "checkpoint_sha256": None,
    }
    found.begin({"run": "made", "plan": plan.to_json(), "environment": environment})
    for planned in plan.cells():
        summary = CellSummary(plan.duration, 1.0, 0.1, {})
        found.keep(Cell(planned.name, make(planned), summary))
    if quality:
        found.keep_quality(quality)
    return found


def queueing(planned: Planned) -> list[Record]:
    """A server that batches: steps of 10 ms alone, a little longer together."""
    chance = random.Random(planned.name)
    steps, load = planned.setting.steps or 0, planned.load
    if load.loop == "closed":
        width = int(load.value)
        mean = steps * (0.006 + 0.004 * width**0.9)
        records, number = [], 0
        for worker in range(width):
            at = -1 + mean * worker / width
            while at < 10:
                latency = mean * chance.uniform(0.9, 1.25)
                records.append(record(number, at, latency))
                number, at = number + 1, at + latency
        return records
    free, records = -1.0, []
    for number in range(int(11 * load.value)):
        at = -1 + number / load.value
        free = max(at, free) + steps * 0.004 * chance.uniform(0.7, 1.5)
        late = free > 15
        records.append(record(number, at, min(free, 15) - at, "gave up" if late else None))
    return records


def judged(plan: Plan, judge: bool = False) -> list[dict]:
    """Answers that get better with steps, less and less."""
    chance = random.Random(0)
    rows = []
    for setting in plan.settings:
        steps = setting.steps or 1
        for seed in range(40):
            nats = 40 * (1 + 4 / steps + chance.gauss(0, 0.25))
            row = {"setting": setting.name, "seed": seed, "prompt": 0, "unit": "token"}
            row |= {"nats": nats, "nats_se": 1.0, "count": 40, "entropy": 3.2, "repetition": 0.02}
            if judge:
                row |= {"scorer": "teacher", "scorer_tokens": 40, "scorer_nats": nats + 12}
            rows.append(row)
    return rows
