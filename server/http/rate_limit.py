"""Rate limits by token buckets, one for all requests and one for each key."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Bucket:
    """A token bucket of one minute's requests."""

    per_minute: float
    tokens: float
    filled: float

    def fill(self, now: float) -> None:
        """Add the tokens of the time since the last call."""
        more = (now - self.filled) * self.per_minute / 60
        self.tokens, self.filled = min(self.per_minute, self.tokens + more), now

    @property
    def wait(self) -> float:
        """Seconds until a token is available; 0 if one is."""
        return max(0.0, (1 - self.tokens) * 60 / self.per_minute)


class Rates:
    """The token buckets of a server; keys are identified by digests."""

    def __init__(
        self, for_all: int, for_each: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Limits in requests a minute; 0 disables a limit."""
        self._clock, self._for_each = clock, for_each
        self._all = self._full(for_all)
        self._by_key: dict[bytes, Bucket] = {}

    def wait(self, key: bytes) -> float:
        """Count a request and return 0, or return the seconds to wait without counting it."""
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
