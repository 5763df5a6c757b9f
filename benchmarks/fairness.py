"""Who waits for whom: the scheduler's policy against first come, first served.

A seeded simulation of the real ``Scheduler``. Requests arrive at random, short and long ones; a
step takes ``BASE`` seconds and ``PER_POSITION`` for each position that the scheduler puts into it,
as a CPU does. What is told of each kind is the slowdown: time from arrival to end, over the time
that the request takes alone. Patience 0 is first come, first served.

    python -m benchmarks.fairness --save fairness.jsonl                                # seconds
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.isolated import Record, save
from server.scheduler import Scheduler, Work

BASE, PER_POSITION = 9.8e-3, 1.5e-4  # seconds: ``benchmarks/step_positions.py``, one thread
KINDS = {"short": (Work(64, 16), 0.90), "long": (Work(256, 512), 0.10)}
"""Canvas and steps, and the share of requests."""
PATIENCE = (0.0, 2.0, 4.0, 8.0, 16.0, math.inf)
POSITIONS = (128, 512, 2048, 16384)
LOADS = (0.5, 0.8, 0.95)


@dataclass
class Request:
    """One that is under way."""

    kind: str
    arrived: float
    left: int


def alone(work: Work) -> float:
    """Seconds of a request that shares its steps with nobody."""
    return work.steps * (BASE + PER_POSITION * work.positions)


def arrivals(load: float, count: int, seed: int) -> list[tuple[float, str]]:
    """Times and kinds; at load 1 the engine would never be idle if it took them one by one."""
    chance = random.Random(seed)
    mean = sum(share * alone(work) for work, share in KINDS.values())
    now, found = 0.0, []
    for _ in range(count):
        now += chance.expovariate(load / mean)
        kind = "short" if chance.random() < KINDS["short"][1] else "long"
        found.append((now, kind))
    return found


def simulate(
    incoming: Sequence[tuple[float, str]], patience: float, max_positions: int
) -> dict[str, list[float]]:
    """Slowdowns by kind."""
    count = len(incoming)
    scheduler: Scheduler[int] = Scheduler(count, 64, max_positions, 2**60, patience)
    requests: dict[int, Request] = {}
    running: set[int] = set()
    slowdowns: dict[str, list[float]] = {kind: [] for kind in KINDS}
    now, arrived = 0.0, 0
    while arrived < count or requests:
        if not requests:
            now = max(now, incoming[arrived][0])
        while arrived < count and incoming[arrived][0] <= now:
            came, kind = incoming[arrived]
            work = KINDS[kind][0]
            scheduler.submit(arrived, work)
            requests[arrived] = Request(kind, came, work.steps)
            arrived += 1
        change = scheduler.next_step()
        running.difference_update(change.pause)
        running.update(change.begin, change.resume)
        now += BASE + PER_POSITION * scheduler.positions
        for key in list(running):
            request = requests[key]
            request.left -= 1
            if not request.left:
                scheduler.remove(key)
                running.discard(key)
                del requests[key]
                took = now - request.arrived
                slowdowns[request.kind].append(took / alone(KINDS[request.kind][0]))
    return slowdowns


def quantile(values: Sequence[float], q: float) -> float:
    """Of values in any order."""
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]


def main() -> None:
    """Simulate all settings, and print a table."""
    parser = argparse.ArgumentParser(description="Who waits for whom.")
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save", help="file name in benchmarks/results")
    args = parser.parse_args()
    records: list[Record] = []
    print("load positions patience | short: mean p95 max | long: mean p95 max   (slowdown)")
    for load in LOADS:
        incoming = arrivals(load, args.requests, args.seed)
        for positions in POSITIONS:
            for patience in PATIENCE:
                slowdowns = simulate(incoming, patience, positions)
                told = {
                    f"{kind}_{name}": round(value, 2)
                    for kind, values in slowdowns.items()
                    for name, value in (
                        ("mean", statistics.fmean(values)),
                        ("p95", quantile(values, 0.95)),
                        ("max", max(values)),
                    )
                }
                record: Record = {
                    "load": load,
                    "max_positions": positions,
                    "patience": str(patience),
                    **told,
                }
                records.append(record)
                short, long = (
                    " ".join(f"{told[f'{kind}_{n}']:8.2f}" for n in ("mean", "p95", "max"))
                    for kind in KINDS
                )
                print(f"{load:4} {positions:9} {patience:8} | {short} | {long}", flush=True)
    if args.save:
        save(args.save, records)


if __name__ == "__main__":
    main()
