"""Sends many generated and broken bodies (``tests/server/api/test_bodies.py``) to ``xdlm serve``.
No answer may be a 5xx; every refusal is the error object.

    python -m benchmarks.bodies --count 100000 --save bodies.jsonl
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from benchmarks.client import collect
from benchmarks.isolated import Record
from benchmarks.serving import Server, serving
from models.bundled import BUNDLED
from tests.server.api.test_bodies import Sender, send_bytes, send_fields
from tests.support.serving import write_tiny

CHUNK = 5000
"""Bodies that Hypothesis makes in one go; the first and every third are broken ones."""
LIMITS = {"XDLM_MAX_STEPS": "8", "XDLM_MAX_CHOICES": "16", "XDLM_MAX_WORK": "2048"}


def small(folder: Path) -> Path:
    """A tiny checkpoint with a chat template and 64 positions: cases are to be quick."""
    write_tiny(folder)
    shutil.copy(BUNDLED / "stories" / "tokenizer_config.json", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_sequence_length": 64}))
    return folder


async def storm(server: Server, count: int) -> AsyncIterator[Record]:
    """Send bodies in chunks; yields the counts so far after each."""
    sender, began = Sender(server.port), time.monotonic()
    while sum(sender.statuses.values()) < count:
        send = send_fields if (sum(sender.statuses.values()) // CHUNK) % 3 else send_bytes
        send(sender, CHUNK, derandomize=False)
        yield {
            "bodies": sum(sender.statuses.values()),
            "statuses": {str(status): n for status, n in sorted(sender.statuses.items())},
            "server_errors": sum(n for status, n in sender.statuses.items() if status >= 500),
            "longest_answer_s": round(sender.longest, 3),
            "seconds": round(time.monotonic() - began, 1),
            **server.resources(),
        }
    sender.connection.close()


def main() -> None:
    """Send and count."""
    parser = argparse.ArgumentParser(description="Sends many generated and broken bodies.")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--save", help="file name in benchmarks/results")
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as place,
        serving(str(small(Path(place) / "tiny")), **LIMITS) as server,
    ):
        asyncio.run(collect(storm(server, args.count), args.save))


if __name__ == "__main__":
    main()
