"""A process that has done all that ``xdlm serve stories digits`` does before it listens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache

PROGRAM = """
import json, os, sys
import server.cli.app
from models.checkpoints.load import find_checkpoint, load_checkpoint
from server.api.app import create_app
from server.config import Settings
from server.engine.factory import engine_of

settings = Settings()
loaded = [load_checkpoint(find_checkpoint(name)) for name in ("stories", "digits")]
app = create_app([engine_of(checkpoint, settings) for checkpoint in loaded], settings)
described = sum(len(getattr(route, "response_fields", ())) for route in app.routes)
print(json.dumps([list(sys.modules), dict(os.environ), described]))
"""


@dataclass(frozen=True)
class ReadyServer:
    """Modules that such a process has imported, its environment variables, and the number of
    responses that its routes have schemas of.
    """

    modules: frozenset[str]
    variables: dict[str, str]
    described_responses: int


@cache
def ready_server() -> ReadyServer:
    """It has ended; its variables were these, without those of OpenMP."""
    given = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=given, stdout=subprocess.PIPE, check=True
    )
    modules, variables, described = json.loads(run.stdout)
    return ReadyServer(frozenset(modules), variables, described)
