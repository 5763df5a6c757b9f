"""Ways to choose a replica, and what a router knows when it does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.router_fleet import Replica


class Router:
    """State of one router: the work sent to each replica since that replica's last report."""

    def __init__(self, number: int, reports: Reports, random: np.random.Generator) -> None:
        self.reports, self.random = reports, random
        self.turn = number * 7919
        self.sent = np.zeros((2, reports.count))
        self.since = np.full(reports.count, -1.0)
        self.now = 0.0

    def known(self, kind: int, who: np.ndarray) -> np.ndarray:
        """Estimated requests (kind 0) or work (1) at some replicas."""
        fresh = self.since[who] == self.reports.at[who]
        return self.reports.reported[kind][who] + np.where(fresh, self.sent[kind][who], 0.0)

    def send(self, to: int, work: float) -> None:
        """Count a request that was sent."""
        if self.since[to] != self.reports.at[to]:
            self.since[to] = self.reports.at[to]
            self.sent[:, to] = 0.0
        self.sent[:, to] += (1.0, work)

    def some(self, count: int) -> np.ndarray:
        """Replicas by chance, all of them if there are no more; in random order."""
        everyone = self.reports.count
        if count >= everyone:
            return self.random.permutation(everyone)
        if 2 * count >= everyone:
            return self.random.permutation(everyone)[:count]
        found: dict[int, None] = {}
        while len(found) < count:
            found[int(self.random.integers(everyone))] = None
        return np.fromiter(found, int)


class Reports:
    """The last report of each replica, seen by all routers."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.at = np.zeros(count)
        self.reported = np.zeros((2, count))


Policy = Callable[[Router, list[Replica]], int]


def round_robin(router: Router, replicas: list[Replica]) -> int:
    router.turn += 1
    return router.turn % len(replicas)


def least_requests(router: Router, replicas: list[Replica]) -> int:
    who = router.some(len(replicas))
    return int(who[router.known(0, who).argmin()])


def power_of_two(router: Router, replicas: list[Replica]) -> int:
    """Two by chance are asked for their requests at this moment, as Ray Serve does by itself."""
    return min((int(i) for i in router.some(2)), key=lambda i: replicas[i].requests)


def least_work(candidates: int) -> Policy:
    """The least remaining work among some replicas, by the router's estimate."""

    def choose(router: Router, replicas: list[Replica]) -> int:
        who = router.some(candidates)
        return int(who[router.known(1, who).argmin()])

    return choose


def asked_for_work(candidates: int) -> Policy:
    """The least remaining work among some replicas that are asked at this moment."""

    def choose(router: Router, replicas: list[Replica]) -> int:
        who = [int(i) for i in router.some(candidates)]
        return min(who, key=lambda i: replicas[i].work(router.now))

    return choose
