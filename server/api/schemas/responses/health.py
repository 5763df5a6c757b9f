"""Responses of health, readiness and version routes."""

from __future__ import annotations

from typing import Literal

from server.api.schemas.responses.common import Answer


class Health(Answer):
    """The process is alive."""

    status: Literal["ok"]


class Ready(Answer):
    """All engines accept requests."""

    status: Literal["ready"]


class Version(Answer):
    """Version of the server."""

    version: str
