"""Progress of long work, as its observers see it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """Work whose progress is observed.

    Attributes:
        name: of the model or the file that it is done on.
        doing, done: its verb: ``loading``, ``loaded``.
        total: its size; 0 where that is not known.
        unit: of the size: ``bytes``, or the plural of the things that are counted.
        have: the part of it that is done when it begins.
        brief: nothing is shown of it if it ends soon.
    """

    name: str
    doing: str
    done: str
    total: int = 0
    unit: str = "bytes"
    have: int = 0
    brief: bool = True


class Progress:
    """Observes work, one after the other. This one shows nothing."""

    @contextmanager
    def of(self, work: Work) -> Iterator[None]:
        """Observe work while the block runs."""
        self.begin(work)
        try:
            yield
        except BaseException:
            self.end(whole=False)
            raise
        self.end(whole=True)

    def begin(self, work: Work) -> None:
        """Work begins."""

    def advance(self, count: int = 1) -> None:
        """``count`` more is done; less than 0 where it has to be done again. Called from several
        threads.
        """

    def end(self, whole: bool) -> None:
        """The work is done, or ended early."""

    def note(self, line: str) -> None:
        """Something that users should know."""


SILENT = Progress()
