"""Responses of health, readiness and version routes."""

from __future__ import annotations

from typing import Literal

from server.api.schemas.responses.common import AnswerDict


class Health(AnswerDict):
    """The process is alive."""

    status: Literal["ok"]


class Ready(AnswerDict):
    """All engines accept requests."""

    status: Literal["ready"]


class Version(AnswerDict):
    """Version of the server."""

    version: str
