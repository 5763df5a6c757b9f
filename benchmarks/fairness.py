"""Compares the scheduler's policy with first come, first served.

A seeded simulation of the real ``Scheduler``; a step takes ``BASE`` seconds and ``PER_POSITION``
for each position that the scheduler puts into it, as a CPU does. Two kinds of load: short and long
requests that arrive at random, and sixteen clients that ask for much the same, each again as soon
as it is answered. The figure is the slowdown: time from arrival to end, over the time that the
request takes alone.

    python -m benchmarks.fairness --save fairness.jsonl                            # two minutes
    python -m benchmarks.fairness --mixed --save fairness-mixed.jsonl              # half a minute

With ``--mixed``: eight clients in a closed loop whose requests differ in their steps, against first
come, first served step batching. There requests are served strictly in order of arrival, all
waiting ones with the step count of the oldest together, and a batch runs to its end.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.isolated import Record, save
from server.engine.factory import MAX_WORK_RATIO
from server.engine.position_limits import MAX_POSITIONS
from server.engine.scheduler import Scheduler, Work

BASE, PER_POSITION = 9.8e-3, 1.5e-4  # seconds: ``benchmarks/step_positions.py``, one thread
KINDS = {"short": (Work(64, 16), 0.90), "long": (Work(256, 512), 0.10)}
"""Canvas and steps, and the share of requests."""
POLICIES = {
    "first come, first served": (0.0, math.inf, math.inf),
    "least work left": (math.inf, math.inf, math.inf),
    "and patience": (16.0, math.inf, math.inf),
    "and 4 times its steps halve it": (16.0, 4.0, math.inf),
    "and a quarter of its steps halves it": (16.0, 0.25, math.inf),
    "and company of 16 times the work": (16.0, 4.0, 16.0),
}
"""Patience, halving and company of each; the last is what a CPU gets."""
POSITIONS = (128, 512, 16384)
LOADS = (0.5, 0.8, 0.95)
CLIENTS = 16
ALIKE = (100, 200), 16
"""Canvases of so many positions, and steps, of what the clients ask for."""


MIXED_CLIENTS, MIXED_POSITIONS, MIXED_STEPS = 8, 72, (4, 8, 16, 32, 64)
MIXED_COSTS = {"positions": (0.02, 6e-4), "network calls": (0.03, 4e-4)}
"""Seconds of a step and of a position, of a network of 60 M parameters on two cores: two pairs that
give what was measured, by which of the two weighs more."""


@dataclass
class Request:
    """One that is under way."""

    kind: str
    work: Work
    arrived: float
    left: int


def alone(work: Work) -> float:
    """Seconds of a request that runs alone."""
    return work.steps * (BASE + PER_POSITION * work.positions)


def arrivals(load: float, count: int, seed: int) -> list[tuple[float, str, Work]]:
    """Random arrivals; at load 1 they would keep an engine busy that runs them one by one."""
    chance = random.Random(seed)
    mean = sum(share * alone(work) for work, share in KINDS.values())
    now, found = 0.0, []
    for _ in range(count):
        now += chance.expovariate(load / mean)
        kind = "short" if chance.random() < KINDS["short"][1] else "long"
        found.append((now, kind, KINDS[kind][0]))
    return found


def closed_loop(count: int, seed: int) -> list[tuple[float, str, Work]]:
    """Requests of clients that each send their next one when one is answered."""
    chance = random.Random(seed)
    (least, most), steps = ALIKE
    works = [Work(chance.randint(least, most), steps) for _ in range(count)]
    return [(0.0 if i < CLIENTS else math.inf, "alike", work) for i, work in enumerate(works)]


def simulate(
    incoming: Sequence[tuple[float, str, Work]],
    policy: tuple[float, float, float],
    max_positions: int,
) -> dict[str, list[float]]:
    """Slowdowns by kind. One that comes at no time of its own comes when another ends."""
    count = len(incoming)
    scheduler: Scheduler[int] = Scheduler(count, 64, max_positions, 2**60, *policy)
    requests: dict[int, Request] = {}
    running: set[int] = set()
    slowdowns: dict[str, list[float]] = defaultdict(list)
    now, arrived, ended = 0.0, 0, 0
    while arrived < count or requests:
        if not requests and incoming[arrived][0] < math.inf:
            now = max(now, incoming[arrived][0])
        while arrived < count:
            at, kind, work = incoming[arrived]
            if at == math.inf and arrived < ended + CLIENTS:
                at = now
            if at > now:
                break
            scheduler.submit(arrived, work)
            requests[arrived] = Request(kind, work, at, work.steps)
            arrived += 1
        change = scheduler.begin_step()
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
                ended += 1
                slowdowns[request.kind].append((now - request.arrived) / alone(request.work))
    return slowdowns


def mixed_steps(count: int, seed: int) -> list[int]:
    """Step counts of the requests of a closed loop."""
    chance = random.Random(seed)
    return [chance.choice(MIXED_STEPS) for _ in range(count)]


def step_batching(steps: Sequence[int], base: float, per_position: float) -> list[float]:
    """Seconds of each request under first come, first served step batching, and of the whole."""
    now, waiting = 0.0, [(i, 0.0) for i in range(min(MIXED_CLIENTS, len(steps)))]
    sent, taken = len(waiting), []
    while waiting:
        count = steps[waiting[0][0]]
        batch = [one for one in waiting if steps[one[0]] == count]
        waiting = [one for one in waiting if steps[one[0]] != count]
        now += count * (base + per_position * MIXED_POSITIONS * len(batch))
        for _, arrived in batch:
            taken.append(now - arrived)
            if sent < len(steps):
                waiting.append((sent, now))
                sent += 1
    return [*taken, now]


def continuous(
    steps: Sequence[int], base: float, per_position: float, max_work_ratio: float
) -> list[float]:
    """The same of the real ``Scheduler`` as on a CPU."""
    scheduler: Scheduler[int] = Scheduler(
        len(steps), 64, MAX_POSITIONS["cpu"], 2**60, max_work_ratio=max_work_ratio
    )
    left: dict[int, int] = {}
    arrived: dict[int, float] = {}
    running: set[int] = set()
    now, taken = 0.0, []

    def send() -> None:
        if (i := len(arrived)) < len(steps):
            scheduler.submit(i, Work(MIXED_POSITIONS, steps[i]))
            arrived[i], left[i] = now, steps[i]

    for _ in range(MIXED_CLIENTS):
        send()
    while left:
        change = scheduler.begin_step()
        running.difference_update(change.pause)
        running.update(change.begin, change.resume)
        now += base + per_position * scheduler.positions
        for key in list(running):
            left[key] -= 1
            if not left[key]:
                scheduler.remove(key)
                running.discard(key)
                del left[key]
                taken.append(now - arrived[key])
                send()
    return [*taken, now]


def mixed(count: int, seed: int) -> list[Record]:
    """Both policies with both costs; prints p50, p95 and throughput, and their ratios."""
    records: list[Record] = []
    steps = mixed_steps(count, seed)
    for name, cost in MIXED_COSTS.items():
        found = {
            "step batching": step_batching(steps, *cost),
            "scheduler": continuous(steps, *cost, MAX_WORK_RATIO["cpu"]),
        }
        for policy, (*taken, whole) in found.items():
            figures = {"p50": quantile(taken, 0.5), "p95": quantile(taken, 0.95)}
            figures |= {"max": max(taken), "requests_per_s": count / whole}
            records.append(
                {"load": "mixed", "cost": name, "seed": seed, "policy": policy, **figures}
            )
        first, ours = records[-2:]
        ratios = {k: round(ours[k] / first[k], 2) for k in ("p50", "p95", "max", "requests_per_s")}
        print(f"mixed, {name} weigh more: {ratios}", flush=True)
    return records


def quantile(values: Sequence[float], q: float) -> float:
    """Of values in any order."""
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]


def main() -> None:
    """Simulate all settings, and print a table."""
    parser = argparse.ArgumentParser(description="Who waits for whom.")
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mixed", action="store_true", help="steps that differ, in a closed loop")
    parser.add_argument("--save", help="file name in benchmarks/results")
    args = parser.parse_args()
    if args.mixed:
        found = [r for seed in range(args.seed, args.seed + 3) for r in mixed(args.requests, seed)]
        if args.save:
            save(args.save, found)
        return
    records: list[Record] = []
    loads = {f"random, {load:g}": arrivals(load, args.requests, args.seed) for load in LOADS}
    loads["closed loop"] = closed_loop(args.requests, args.seed)
    print("slowdown: mean, 95 %, longest")
    for load, incoming in loads.items():
        for positions in POSITIONS:
            for name, policy in POLICIES.items():
                slowdowns = simulate(incoming, policy, positions)
                figures = {
                    kind: {
                        "mean": round(statistics.fmean(values), 2),
                        "p95": round(quantile(values, 0.95), 2),
                        "max": round(max(values), 2),
                    }
                    for kind, values in sorted(slowdowns.items(), reverse=True)
                }
                setting = {"load": load, "max_positions": positions, "policy": name}
                records.append({**setting, **figures})
                cells = (f"{k}: {m['mean']}, {m['p95']}, {m['max']}" for k, m in figures.items())
                print(f"{load}, {positions}, {name} | {' | '.join(cells)}", flush=True)
    if args.save:
        save(args.save, records)


if __name__ == "__main__":
    main()
