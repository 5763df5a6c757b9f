"""How often clients may ask: token buckets, one for all and one for each key."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Bucket:
    """Holds up to a minute's requests, refilled evenly."""

    per_minute: float
    tokens: float
    filled: float

    def fill(self, now: float) -> None:
        """Add what has come since the last time."""
        more = (now - self.filled) * self.per_minute / 60
        self.tokens, self.filled = min(self.per_minute, self.tokens + more), now

    @property
    def wait(self) -> float:
        """Seconds until there is a whole token; 0 if there is one."""
        return max(0.0, (1 - self.tokens) * 60 / self.per_minute)


class Rates:
    """The buckets of one server; those of keys are known by digests."""

    def __init__(
        self, for_all: int, for_each: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Requests a minute; 0 is no limit."""
        self._clock, self._for_each = clock, for_each
        self._all = self._full(for_all)
        self._by_key: dict[bytes, Bucket] = {}

    def wait(self, key: bytes) -> float:
        """Count a request: 0 if it may go on, or the seconds until another may, and then it does
        not count.
        """
        buckets = [] if self._all is None else [self._all]
        if self._for_each:
            if key not in self._by_key:
                self._by_key[key] = self._bucket(self._for_each)
            buckets.append(self._by_key[key])
        now = self._clock()
        for bucket in buckets:
            bucket.fill(now)
        longest = max((bucket.wait for bucket in buckets), default=0.0)
        if not longest:
            for bucket in buckets:
                bucket.tokens -= 1
        return longest

    def _full(self, per_minute: int) -> Bucket | None:
        return self._bucket(per_minute) if per_minute else None

    def _bucket(self, per_minute: int) -> Bucket:
        return Bucket(per_minute, per_minute, self._clock())
