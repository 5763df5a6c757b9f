"""The recordings that can be read again, bounded by size and age. Plain data: no clock, no
threads.
"""

from __future__ import annotations

from server.trajectories.recording import Recording


class TrajectoryStore:
    """Recordings by id: those under way, and finished ones for a while.

    Each counts with all its bytes until they are freed: one that is too old to be found is freed
    when its last reader has gone, or earlier where room is needed.

    Times are passed in, in seconds, and never run backwards.
    """

    def __init__(self, max_bytes: int, max_seconds: float) -> None:
        """Limits: of all recordings together, and of the time since a finished one ended."""
        self.max_bytes, self.max_seconds = max_bytes, max_seconds
        self.bytes = 0
        self._running: dict[str, Recording] = {}
        self._finished: dict[str, tuple[Recording, float]] = {}  # the first to end comes first
        self._outdated: list[Recording] = []  # still being read

    def __len__(self) -> int:
        """How many can be found."""
        return len(self._running) + len(self._finished)

    def begin(self, recording: Recording) -> None:
        """Keep a recording that nothing has been written to."""
        self._running[recording.id] = recording

    def grew(self, taken: int, now: float) -> Recording | None:
        """Count ``taken`` more bytes of a recording. Finished ones make room, the first to end
        first; where that does not suffice, the largest under way is returned, and must end.
        """
        self.bytes += taken
        self._drop_old(now)
        while self.bytes > self.max_bytes and self._outdated:
            self._free(self._outdated.pop(0))
        while self.bytes > self.max_bytes and self._finished:
            self.forget(next(iter(self._finished)))
        if self.bytes <= self.max_bytes:
            return None
        return max(self._running.values(), key=lambda recording: recording.size)

    def end(self, recording: Recording, now: float) -> None:
        """A recording has ended: from now on it may have to make room."""
        self._finished[recording.id] = self._running.pop(recording.id), now

    def get(self, id_: str, now: float, owner: bytes = b"") -> Recording | None:
        """A recording, if it is here (still) and was made with that key; see ``Recording``."""
        self._drop_old(now)
        found = self._running.get(id_)
        if found is None and id_ in self._finished:
            found, _ = self._finished[id_]
        return found if found is not None and found.owner == owner else None

    def forget(self, id_: str) -> None:
        """Drop a finished recording, also for its current readers."""
        self._free(self._finished.pop(id_)[0])

    def _free(self, recording: Recording) -> None:
        self.bytes -= recording.size
        recording.forget()

    def _drop_old(self, now: float) -> None:
        while self._finished:
            id_, (recording, ended) = next(iter(self._finished.items()))
            if now - ended <= self.max_seconds:
                break
            del self._finished[id_]
            self._outdated.append(recording)
        for recording in [one for one in self._outdated if not one.followers]:
            self._outdated.remove(recording)
            self._free(recording)
