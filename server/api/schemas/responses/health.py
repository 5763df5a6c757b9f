"""What those who run the server are told."""

from __future__ import annotations

from typing import Literal

from server.api.schemas.responses.common import Answer


class Health(Answer):
    """The process answers."""

    status: Literal["ok"]


class Ready(Answer):
    """Requests are taken."""

    status: Literal["ready"]


class Version(Answer):
    """The build."""

    version: str
