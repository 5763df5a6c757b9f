"""Chooses the requests of the next step. Plain data: no torch, no threads, no clock, no sampler.

The state of a canvas between two steps is its tokens alone, so a request can be preempted at no
cost, and its output does not depend on when its steps are taken.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import structlog

from server.engine.slots import Slots

log = structlog.get_logger()

Key = TypeVar("Key", bound=Hashable)

PATIENCE_RATIO = 16
"""A request that has been here for this multiple of its own step count goes before all later ones.
"""
AGEING_HALF_LIFE = 4.0
"""Multiple of a request's own step count after which its work left counts half, so that similar
requests run about in order of arrival. ``benchmarks/fairness.py`` compares values of both."""
LONG_RATIO = 2
"""A request is long if its work and its steps, times this, exceed the means of all present."""
HEAD_START_RATIO = 4
"""The head start of a long request is its step count, and at most this multiple of the mean."""
RESCHEDULE_STEPS = 8
"""Steps between two choices while no request comes or ends."""


class QueueFull(Exception):
    """There is no room for the request."""


@dataclass(frozen=True)
class Work:
    """The cost of a request.

    Attributes:
        positions: positions that the network evaluates at each step.
        steps: number of steps.
        slots: positions whose keys and values are kept from its first step to its end.
    """

    positions: int
    steps: int
    slots: int = 0

    @property
    def total(self) -> int:
        """Positions × steps."""
        return self.positions * self.steps


@dataclass(slots=True)
class _Entry:
    """A request in the scheduler.

    Attributes:
        order: its number in order of arrival.
        total: positions × steps at arrival.
        steps: at arrival.
        arrived: time of arrival, in seconds.
        came: the scheduler's step count at arrival.
        begun: it has taken part in a step.
        running: it takes part in the next step.
        done: its own steps before it last started to run.
        since: the scheduler's step count when it last started to run.
        start: first of its slots, -1 while it has none.
    """

    order: int
    work: Work
    total: int
    steps: int
    arrived: float
    came: int
    begun: bool = False
    running: bool = False
    done: int = 0
    since: int = 0
    start: int = -1


class _Standing(NamedTuple):
    """All numbers of an entry that a choice depends on."""

    rank: tuple[int, float, int]
    impatient: bool
    positions: float
    total: float


class _Mean(NamedTuple):
    """Means over all requests present, in whole numbers."""

    total: int
    steps: int

    def exceeded_by(self, entry: _Entry) -> bool:
        """Whether a request is long."""
        return LONG_RATIO * entry.total > self.total and LONG_RATIO * entry.steps > self.steps


@dataclass(frozen=True)
class Change(Generic[Key]):
    """Requests that begin, resume and are preempted before the next step; ``broken`` ones, whose
    rank could not be computed, were removed. ``starts`` has the first slot of each that begins, -1
    where it has none.
    """

    begin: Sequence[Key] = ()
    starts: Sequence[int] = ()
    resume: Sequence[Key] = ()
    pause: Sequence[Key] = ()
    broken: Sequence[Key] = ()


class Scheduler(Generic[Key]):
    """Least work left first among short requests, with ageing, then long ones in order of arrival
    less their step counts; beyond a patience all run in order of arrival.

    A long request takes part in nearly all steps while it is here, so its slowdown comes from the
    company in its steps rather than from waiting. The head start, its step count, bounds it: of two
    long requests that came together the longer one is not left out of a step for the other.

    Each step has room for a number of requests and of positions. It is filled again whenever a
    request arrives or ends: first with requests whose patience is over, in order of arrival, up to
    the first that does not fit; then with the others, by rank. A request with much more work
    than the head request does not join though there is room, because its positions lengthen the
    step for all. Preempted requests keep their canvas and resume later. With a patience of 0 the
    order is first come, first served.
    """

    def __init__(
        self,
        max_waiting: int,
        max_running: int,
        max_positions: int,
        max_backlog: int,
        patience: float = PATIENCE_RATIO,
        half_life: float = AGEING_HALF_LIFE,
        max_work_ratio: float = math.inf,
        slots: int = 0,
    ) -> None:
        """An empty scheduler.

        Args:
            max_waiting: requests that wait.
            max_running, max_positions: requests and positions in one step.
            max_backlog: positions × steps of the requests that have not begun.
            patience, half_life: see ``PATIENCE_RATIO`` and ``AGEING_HALF_LIFE``.
            max_work_ratio: of the work of a request to that of the head request in its step.
            slots: positions whose keys and values can be kept.
        """
        self.slots = Slots(slots)
        self.max_waiting, self.max_running = max_waiting, max_running
        self.max_positions, self.max_backlog = max_positions, max_backlog
        self.patience, self.half_life, self.max_work_ratio = patience, half_life, max_work_ratio
        self._entries: dict[Key, _Entry] = {}  # in order of arrival
        self._running: dict[Key, _Entry] = {}
        self._unbegun: dict[Key, _Entry] = {}  # in order of arrival
        self._unbegun_work = 0
        self._arrivals = 0
        self._step = 0
        self._chosen = 0  # step count at the last choice
        self._stale = False

    @property
    def waiting(self) -> int:
        """Requests that take no part in the next step, preempted ones included."""
        return len(self._entries) - len(self._running)

    @property
    def running(self) -> int:
        """Requests that take part in the next step."""
        return len(self._running)

    @property
    def positions(self) -> int:
        """Positions of the next step."""
        return sum(entry.work.positions for entry in self._running.values())

    @property
    def backlog(self) -> int:
        """Positions × steps left of all requests."""
        return sum(self._left(entry) for entry in self._entries.values())

    def has_room(self, works: Sequence[Work]) -> bool:
        """Whether there is room for all of these. An empty queue accepts work of any size."""
        if self.waiting + len(works) > self.max_waiting:
            return False
        more = sum(work.total for work in works)
        return not self._unbegun_work or self._unbegun_work + more <= self.max_backlog

    def submit(self, key: Key, work: Work, now: float = 0.0) -> None:
        """Queue a request.

        Raises:
            QueueFull: there is no room.
        """
        self.submit_all([(key, work)], now)

    def submit_all(self, requests: Sequence[tuple[Key, Work]], now: float = 0.0) -> None:
        """Queue all of several requests, or none of them.

        Raises:
            QueueFull: there is no room.
        """
        if not self.has_room([work for _, work in requests]):
            raise QueueFull
        for key, work in requests:
            entry = _Entry(self._arrivals, work, work.total, work.steps, now, self._step)
            self._arrivals += 1
            self._entries[key] = self._unbegun[key] = entry
            self._unbegun_work += entry.total
        self._stale = True

    def begin_step(self) -> Change[Key]:
        """Count a step as begun; returns which requests begin, resume and are preempted in it."""
        change: Change[Key] = Change()
        if self.waiting and (self._stale or self._step - self._chosen >= RESCHEDULE_STEPS):
            change = self._choose()
        self._stale = False
        self._step += 1
        return change

    def _choose(self) -> Change[Key]:
        standings, broken = self._standings()
        for key in broken:
            self.remove(key)
        chosen = self._fill(standings)
        pause = [key for key in self._running if key not in chosen]
        for key in pause:
            entry = self._running.pop(key)
            entry.done, entry.running = self._done(entry), False
        begin: list[Key] = []
        resume: list[Key] = []
        for key in chosen:
            entry = self._entries[key]
            if entry.running:
                continue
            (resume if entry.begun else begin).append(key)
            if not entry.begun:
                self._begun(key)
            entry.begun = entry.running = True
            entry.since = self._step
            self._running[key] = entry
        self._chosen = self._step
        starts = [self._entries[key].start for key in begin]
        return Change(begin, starts, resume, pause, broken)

    def _standings(self) -> tuple[dict[Key, _Standing], list[Key]]:
        """The standings of all requests, and the requests that have none."""
        found: dict[Key, _Standing] = {}
        broken: list[Key] = []
        count = max(1, len(self._entries))
        mean = _Mean(
            sum(e.total for e in self._entries.values()) // count,
            sum(e.steps for e in self._entries.values()) // count,
        )
        for key, entry in self._entries.items():
            try:
                found[key] = self._standing(entry, mean)
            except Exception:
                log.exception("a request has no rank in the queue")
                broken.append(key)
        return found, broken

    def _fill(self, standings: dict[Key, _Standing]) -> set[Key]:
        """The requests of the next step. One that finds no free slots waits, and so do those behind
        it that need some.
        """
        chosen: set[Key] = set()
        used, most, short = 0.0, math.inf, False
        for key, standing in sorted(standings.items(), key=lambda item: item[1].rank):
            if len(chosen) == self.max_running:
                break
            if standing.total > most and not standing.impatient:
                continue
            if not chosen:
                most = self.max_work_ratio * standing.total
            if chosen and used + standing.positions > self.max_positions:
                if standing.impatient:
                    break
                continue
            entry = self._entries[key]
            if entry.start < 0 < entry.work.slots:
                start = None if short else self.slots.take(entry.work.slots)
                if start is None:
                    short = True
                    continue
                entry.start = start
            chosen.add(key)
            used += standing.positions
        return chosen

    def _standing(self, entry: _Entry, mean: _Mean) -> _Standing:
        waited = self._waited(entry)
        impatient = waited >= self.patience
        if impatient:
            rank = 0, 0.0, entry.order
        elif mean.exceeded_by(entry) and waited < self.half_life:
            rank = (
                2,
                float(entry.came - min(entry.steps, HEAD_START_RATIO * mean.steps)),
                entry.order,
            )
        else:
            left = math.log2(max(1, self._left(entry)))
            rank = 1, left - waited / self.half_life, entry.order
        return _Standing(rank, impatient, float(entry.work.positions), float(entry.total))

    def _waited(self, entry: _Entry) -> float:
        """Time since arrival, in multiples of its own step count."""
        return (self._step - entry.came) / max(1, entry.work.steps)

    def _done(self, entry: _Entry) -> int:
        return entry.done + (self._step - entry.since if entry.running else 0)

    def _left(self, entry: _Entry) -> int:
        return entry.work.positions * max(1, entry.work.steps - self._done(entry))

    def _begun(self, key: Key) -> None:
        if self._unbegun.pop(key, None) is not None:
            self._unbegun_work -= self._entries[key].total

    def expire(self, queued_before: float, here_before: float) -> tuple[list[Key], list[Key]]:
        """Remove requests that are past their deadline.

        Returns:
            Requests that arrived before ``queued_before`` and have not begun, then the others that
            arrived before ``here_before``.
        """
        unbegun = self._first_before(self._unbegun, queued_before)
        for key in unbegun:
            self.remove(key)
        overdue = self._first_before(self._entries, here_before)
        for key in overdue:
            self.remove(key)
        return unbegun, overdue

    @staticmethod
    def _first_before(entries: dict[Key, _Entry], time: float) -> list[Key]:
        found: list[Key] = []
        for key, entry in entries.items():
            if entry.arrived >= time:
                break
            found.append(key)
        return found

    def drain(self) -> list[Key]:
        """Remove and return all requests."""
        keys = list(self._entries)
        for key in keys:
            self.remove(key)
        return keys

    def remove(self, key: Key) -> bool:
        """Remove a request, waiting or running; returns whether it was known."""
        if key not in self._entries:
            return False
        self._begun(key)
        entry = self._entries.pop(key)
        if entry.start >= 0:
            self.slots.give(entry.start)
        self._running.pop(key, None)
        self._stale = True
        return True
