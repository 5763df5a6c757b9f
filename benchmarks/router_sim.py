"""How requests are spread over replicas: a seeded simulation.

Each replica batches at every step, and admits first come, first served within a budget of requests
and positions. (Who goes first matters little here: at these loads hardly any request waits for a
place.) A step takes as long as LLaDA-8B's on one H200 by the roofline: the weights' way through
memory, or the arithmetic of the positions in it, whichever is longer. Requests arrive at random
(Poisson) and differ in steps and in positions; some texts end early, which is not known beforehand.
What a router knows of a replica is the last report and what it has sent there itself since; other
routers' requests it does not see.

    python -m benchmarks.router_sim --seeds 5             # the table of docs/scaling.md
    python -m benchmarks.router_sim --loads 0.5 0.9 --report 4 --ask 2 3 4 --replicas 8 128
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.router_fleet import Fleet, Replica
from benchmarks.router_policies import (
    Policy,
    Reports,
    Router,
    asked_for_work,
    least_requests,
    least_work,
    power_of_two,
    round_robin,
)

OBJECTIVE = 3.0  # a request is served well if it takes at most this multiple of its time alone
WARM_UP = 0.2  # share of the requests, the first, that are not counted


@dataclass
class Outcome:
    """Outcome of a simulation.

    Attributes:
        fleet: the simulated fleet.
        took: seconds from arrival to end; NaN for refused requests.
        work: steps times positions done.
        seen: requests in the fleet, at each report.
        until: when the last one ended.
    """

    fleet: Fleet
    took: np.ndarray
    work: int = 0
    seen: list[int] = field(default_factory=list)
    until: float = 0.0

    @property
    def counted(self) -> slice:
        """The requests after the warm-up."""
        return slice(int(WARM_UP * len(self.took)), None)

    @property
    def p95(self) -> float:
        """Seconds; a request that was refused took for ever."""
        took = np.nan_to_num(self.took[self.counted], nan=np.inf)
        return float(np.quantile(took, 0.95, method="higher"))

    @property
    def goodput(self) -> float:
        """Share of the requests that were served within the objective."""
        a = self.fleet.arrivals
        alone = a.lasts * [self.fleet.step_seconds(int(p)) for p in a.positions]
        return float((self.took[self.counted] <= OBJECTIVE * alone[self.counted]).mean())


def simulate(fleet: Fleet, policy: Policy) -> Outcome:
    """Run a fleet until its last request has ended."""
    a, random = fleet.arrivals, np.random.default_rng((fleet.seed, 1))
    replicas = [Replica(fleet) for _ in range(fleet.replicas)]
    reports = Reports(fleet.replicas)
    routers = [Router(n, reports, random) for n in range(fleet.routers)]
    out = Outcome(fleet, np.full(fleet.requests, np.nan))
    order = itertools.count()  # at one moment, first come, first served
    queue: list[tuple[float, int, str, int, int]] = [(float(a.at[0]), next(order), "arrive", 0, 0)]
    phase = random.random(fleet.replicas) * fleet.report_seconds
    queue += [(float(p), next(order), "report", i, 0) for i, p in enumerate(phase)]
    heapq.heapify(queue)
    inside = 0  # requests in the fleet
    arrived = 0

    def plan(i: int, steps: int) -> None:
        replica = replicas[i]
        replica.change, replica.planned = replica.change + 1, steps
        due = replica.began + steps * replica.step
        heapq.heappush(queue, (due, next(order), "change", i, replica.change))

    while inside or arrived < fleet.requests:
        now, _, what, i, change = heapq.heappop(queue)
        if what == "report":
            reports.at[i] = now
            reports.reported[:, i] = replicas[i].requests, replicas[i].work(now)
            heapq.heappush(queue, (now + fleet.report_seconds, next(order), "report", i, 0))
            if i == 0:
                out.seen.append(inside)
        elif what == "arrive":
            arrived += 1
            if arrived < fleet.requests:
                due = float(a.at[arrived])
                heapq.heappush(queue, (due, next(order), "arrive", arrived, 0))
            router = routers[a.router[i]]
            router.now = now
            chosen = policy(router, replicas)
            router.send(chosen, int(a.steps[i] * a.positions[i]))
            replica = replicas[chosen]
            if not replica.take(i):
                continue
            inside += 1
            if not replica.left:
                replica.began = now
                plan(chosen, 0)
            elif (soon := math.ceil((now - replica.began) / replica.step)) < replica.planned:
                plan(chosen, soon)
        elif change == replicas[i].change:
            replica = replicas[i]
            for ended in replica.advance(now, replica.planned):
                out.took[ended] = now - a.at[ended]
                out.work += int(a.lasts[ended] * a.positions[ended])
                out.until = now
                inside -= 1
            if replica.left:
                plan(i, min(replica.left.values()))
    return out


def main() -> None:
    """Print a table for each load."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2, 4, 8, 32, 128, 1000])
    parser.add_argument("--loads", type=float, nargs="+", default=[0.8])
    parser.add_argument("--report", type=float, default=1.0, help="seconds between reports")
    parser.add_argument("--reports", type=int, nargs="*", default=[8], help="compared by report")
    parser.add_argument("--ask", type=int, nargs="*", default=[3], help="replicas asked for work")
    parser.add_argument("--requests", type=int, default=20_000, help="or 60 a replica, if more")
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--seeds", type=int, default=1, help="runs, of which medians are printed")
    args = parser.parse_args()
    policies: dict[str, Policy] = {
        "round robin": round_robin,
        "least requests": least_requests,
        "power of two": power_of_two,
    }
    policies |= {f"{n} reports of work": least_work(n) for n in args.reports}
    policies |= {f"ask {n} for work": asked_for_work(n) for n in args.ask}
    for load in args.loads:
        print(
            f"\nload {load}: p95 in seconds, against round robin's (least to most of "
            f"{args.seeds} seeds); share within the objective"
        )
        print("replicas  " + "  ".join(f"{name:>30}" for name in policies))
        for count in args.replicas:
            requests = max(args.requests, 60 * count)
            runs = [
                _compared(Fleet(count, load, requests, seed, report_seconds=args.report), policies)
                for seed in range(args.seed, args.seed + args.seeds)
            ]
            cells = [_cell(list(of_policy)) for of_policy in zip(*runs, strict=True)]
            print(f"{count:8}  " + "  ".join(f"{cell:>30}" for cell in cells), flush=True)


def _compared(fleet: Fleet, policies: Mapping[str, Policy]) -> list[tuple[float, float, float]]:
    """For each policy p95, its ratio to the first one's, and goodput."""
    outs = [simulate(fleet, policy) for policy in policies.values()]
    return [(out.p95, out.p95 / outs[0].p95, out.goodput) for out in outs]


def _cell(runs: Sequence[tuple[float, float, float]]) -> str:
    """Medians over seeds, and the range of the ratio."""
    p95, ratio, good = (statistics.median(column) for column in zip(*runs, strict=True))
    least, most = min(r for _, r, _ in runs), max(r for _, r, _ in runs)
    spread = f" ({least:.2f}-{most:.2f})" if len(runs) > 1 else ""
    return f"{p95:.2f} {ratio:.2f}x{spread} {good:.1%}"


if __name__ == "__main__":
    main()
