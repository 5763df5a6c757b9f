"""Who takes part in the next step. Plain data: no torch, no threads, no clock, no sampler.

A canvas between two steps is its tokens and nothing else, so a request can be set aside for a while
at no cost, and its output does not depend on when it runs. That is what makes fairness cheap here.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

PATIENCE = 16
"""A request that has been here for so many times its own steps goes before all that came after it.
"""
HALVING = 4.0
"""One that has been here for so many times its own steps counts as half the work; so requests that
are about alike go about in order of arrival. ``benchmarks/fairness.py`` compares values of both."""
TURN = 8
"""Steps after which the choice is made anew, where nobody came or went."""


class QueueFull(Exception):
    """No place in the waiting queue."""


@dataclass(frozen=True)
class Work:
    """What a request asks of the engine.

    Attributes:
        positions: that the network reads at each of its steps.
        steps: of which there are so many.
    """

    positions: int
    steps: int

    @property
    def total(self) -> int:
        """Positions × steps."""
        return self.positions * self.steps


@dataclass(slots=True)
class _Entry:
    """A request that is here.

    ``done`` counts its steps up to the last time it joined, or was set aside; ``since`` is the step
    at which it joined.
    """

    order: int
    work: Work
    arrived: float
    came: int
    begun: bool = False
    running: bool = False
    done: int = 0
    since: int = 0


@dataclass(frozen=True)
class Change(Generic[Key]):
    """Who begins, who goes on and who is set aside before the next step."""

    begin: Sequence[Key] = ()
    resume: Sequence[Key] = ()
    pause: Sequence[Key] = ()


class Scheduler(Generic[Key]):
    """Least work left first, which counts for less and less the longer a request is here; and
    patience: those who have waited long enough go in order of arrival.

    Each step has room for some requests and some positions. It is filled anew whenever somebody
    comes or goes: first with those whose patience is over, in order, and none may overtake the one
    that does not fit; then with the others, those with the least work left before the rest. Who
    asks for far more than the first stays away though there is room: positions lengthen a step for
    all that are in it.
    Requests that lose their place keep their canvas and go on later. With no patience this is first
    come, first served.
    """

    def __init__(
        self,
        max_waiting: int,
        max_running: int,
        max_positions: int,
        max_backlog: int,
        patience: float = PATIENCE,
        halving: float = HALVING,
        company: float = math.inf,
    ) -> None:
        """Limits: requests waiting; requests and positions in one step; positions × steps that
        wait. ``company``: others in a step ask for at most so many times the work of the first.
        """
        self.max_waiting, self.max_running = max_waiting, max_running
        self.max_positions, self.max_backlog = max_positions, max_backlog
        self.patience, self.halving, self.company = patience, halving, company
        self._entries: dict[Key, _Entry] = {}  # in order of arrival
        self._running: dict[Key, _Entry] = {}
        self._unbegun: dict[Key, _Entry] = {}  # in order of arrival
        self._unbegun_work = 0
        self._arrivals = 0
        self._step = 0
        self._chosen = 0  # the step before which the choice was made last
        self._stale = False

    @property
    def waiting(self) -> int:
        """Requests that take no part in the next step, those set aside among them."""
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
        """Positions × steps left of all that is here."""
        return sum(self._left(entry) for entry in self._entries.values())

    def takes(self, works: Sequence[Work]) -> bool:
        """Whether there is room for all of these. Work that is too much for the queue is taken
        where nothing waits.
        """
        if self.waiting + len(works) > self.max_waiting:
            return False
        more = sum(work.total for work in works)
        return not self._unbegun_work or self._unbegun_work + more <= self.max_backlog

    def submit(self, key: Key, work: Work, now: float = 0.0) -> None:
        """Queue a request.

        Raises:
            QueueFull: it was not queued.
        """
        if not self.takes([work]):
            raise QueueFull
        entry = _Entry(self._arrivals, work, now, came=self._step)
        self._arrivals += 1
        self._entries[key] = self._unbegun[key] = entry
        self._unbegun_work += work.total
        self._stale = True

    def next_step(self) -> Change[Key]:
        """What changes before the step that is about to be taken, which is counted as taken."""
        change: Change[Key] = Change()
        if self.waiting and (self._stale or self._step - self._chosen >= TURN):
            change = self._choose()
        self._stale = False
        self._step += 1
        return change

    def _choose(self) -> Change[Key]:
        chosen = self._fill()
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
        return Change(begin, resume, pause)

    def _fill(self) -> set[Key]:
        """Those for whom the step has room."""
        chosen: set[Key] = set()
        used, most = 0, math.inf
        for key, entry in sorted(self._entries.items(), key=lambda item: self._rank(item[1])):
            if len(chosen) == self.max_running:
                break
            if entry.work.total > most and not self._impatient(entry):
                continue
            if not chosen:
                most = self.company * entry.work.total
            if chosen and used + entry.work.positions > self.max_positions:
                if self._impatient(entry):
                    break
                continue
            chosen.add(key)
            used += entry.work.positions
        return chosen

    def _rank(self, entry: _Entry) -> tuple[int, float, int]:
        if self._impatient(entry):
            return 0, 0.0, entry.order
        halvings = self._waited(entry) / self.halving
        return 1, math.log2(max(1, self._left(entry))) - halvings, entry.order

    def _impatient(self, entry: _Entry) -> bool:
        return self._waited(entry) >= self.patience

    def _waited(self, entry: _Entry) -> float:
        """How long it has been here, in its own steps."""
        return (self._step - entry.came) / max(1, entry.work.steps)

    def _done(self, entry: _Entry) -> int:
        return entry.done + (self._step - entry.since if entry.running else 0)

    def _left(self, entry: _Entry) -> int:
        return entry.work.positions * max(1, entry.work.steps - self._done(entry))

    def _begun(self, key: Key) -> None:
        if self._unbegun.pop(key, None) is not None:
            self._unbegun_work -= self._entries[key].work.total

    def late(self, queued_before: float, here_before: float) -> tuple[list[Key], list[Key]]:
        """Remove and name those that have not begun and came before a time, and then those that
        came before another and have not ended.
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
        """Forget all requests, and name them."""
        keys = list(self._entries)
        for key in keys:
            self.remove(key)
        return keys

    def remove(self, key: Key) -> bool:
        """Forget a request, finished or cancelled, wherever it is; whether it was here."""
        if key not in self._entries:
            return False
        self._begun(key)
        del self._entries[key]
        self._running.pop(key, None)
        self._stale = True
        return True
