"""Responses of health, readiness and version routes."""

from __future__ import annotations

from typing import Literal

from server.http.json_response import Answer


class Health(Answer):
    """The process is alive."""

    status: Literal["ok"]


class Ready(Answer):
    """All engines accept requests."""

    status: Literal["ready"]


class Version(Answer):
    """Version of the server."""

    version: str
