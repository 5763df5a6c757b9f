"""Progress of a download, as its observers see it."""

from __future__ import annotations

from models.hub.names import HubName


class Progress:
    """Observes downloads. This one shows nothing; ``advance`` is called from several threads."""

    def begin(self, name: HubName, commit: str, files: int, size: int, have: int) -> None:
        """Bytes will be fetched: ``size`` in all, of which ``have`` are here already."""

    def advance(self, count: int) -> None:
        """``count`` further bytes are here; negative where they have to be fetched again."""

    def end(self) -> None:
        """The download is over, successful or not."""

    def note(self, line: str) -> None:
        """Something that users should know."""


SILENT = Progress()
