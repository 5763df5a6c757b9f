"""A simulated fleet: requests that arrive at random, and replicas that batch at every step."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Fleet:
    """Replicas and what reaches them.

    Attributes:
        replicas: how many.
        load: share of the replicas' capacity that is asked for.
        requests: how many arrive.
        seed: fixes everything that is random.
        weights_seconds: the least that a step takes.
        position_seconds: what each position in it takes.
        steps: of a request, from and to.
        positions: of a request, likewise.
        early: share of the texts that end before their last step.
        report_seconds: between two reports of a replica.
        per_router: replicas to a router; each request comes to one of the routers by chance.
        limits: of a replica: requests waiting, requests running, positions in a step.
    """

    replicas: int
    load: float = 0.8
    requests: int = 20_000
    seed: int = 0
    weights_seconds: float = 16e9 / 4.08e12
    position_seconds: float = 256 / 1083 / 32 / 384
    steps: tuple[int, int] = (8, 256)
    positions: tuple[int, int] = (128, 640)
    early: float = 0.3
    report_seconds: float = 1.0
    per_router: int = 8
    limits: tuple[int, int, int] = (256, 64, 16384)

    @property
    def routers(self) -> int:
        """How many."""
        return math.ceil(self.replicas / self.per_router)

    def step_seconds(self, positions: int) -> float:
        """How long a step of so many positions takes."""
        return max(self.weights_seconds, positions * self.position_seconds)

    @cached_property
    def arrivals(self) -> Arrivals:
        """The requests."""
        random = np.random.default_rng(self.seed)
        count = self.requests
        steps = random.integers(*self.steps, count, endpoint=True)
        positions = random.integers(*self.positions, count, endpoint=True)
        ends = random.random(count) < self.early
        lasts = np.where(ends, np.ceil(steps * random.random(count)), steps).astype(int)
        seconds = float((lasts * positions).mean()) * self.position_seconds
        rate = self.load * self.replicas / seconds
        at = random.exponential(1 / rate, count).cumsum()
        routers = random.integers(self.routers, size=count)
        return Arrivals(at, steps, np.maximum(lasts, 1), positions, routers)


@dataclass(frozen=True)
class Arrivals:
    """When requests come, the steps they ask for and take, their positions, and to which router."""

    at: np.ndarray
    steps: np.ndarray
    lasts: np.ndarray
    positions: np.ndarray
    router: np.ndarray


@dataclass
class Replica:
    """One engine. Between two changes of its batch all steps are alike, and are taken at once."""

    fleet: Fleet
    waiting: deque[int] = field(default_factory=deque)
    left: dict[int, int] = field(default_factory=dict)  # steps to take, of those that run
    asked: dict[int, int] = field(default_factory=dict)  # estimate of the work left
    began: float = 0.0
    step: float = 0.0
    change: int = 0  # the change that is planned, after how many steps
    planned: int = 0

    @property
    def requests(self) -> int:
        """Number of requests in the replica."""
        return len(self.left) + len(self.waiting)

    def take(self, i: int) -> bool:
        """Queue a request, if there is a place."""
        if len(self.waiting) >= self.fleet.limits[0]:
            return False
        self.waiting.append(i)
        self.asked[i] = int(self.fleet.arrivals.steps[i] * self.fleet.arrivals.positions[i])
        return True

    def work(self, now: float) -> int:
        """Estimate of the steps times positions left."""
        taken = int((now - self.began) / self.step) if self.left else 0
        done = taken * sum(int(self.fleet.arrivals.positions[i]) for i in self.left)
        return sum(self.asked.values()) - done

    def advance(self, now: float, steps: int) -> list[int]:
        """Take steps, let requests leave and join; returns those that ended."""
        a = self.fleet.arrivals
        ended = []
        for i in list(self.left):
            self.left[i] -= steps
            self.asked[i] -= steps * int(a.positions[i])
            if not self.left[i]:
                ended.append(i)
                del self.left[i], self.asked[i]
        _, most, room = self.fleet.limits
        used = sum(int(a.positions[i]) for i in self.left)
        while self.waiting and len(self.left) < most:
            i = self.waiting[0]
            if self.left and used + a.positions[i] > room:
                break
            self.left[self.waiting.popleft()] = int(a.lasts[i])
            used += int(a.positions[i])
        self.began, self.step = now, self.fleet.step_seconds(used)
        return ended
