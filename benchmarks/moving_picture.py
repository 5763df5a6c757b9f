"""The moving picture at the top of README: a run of ``stories``, recorded and drawn by the server.

``python -m benchmarks.moving_picture`` (or ``make screenshots``) writes docs/story.gif.
"""

from __future__ import annotations

import json
import logging
from typing import Any
from urllib.request import Request, urlopen

import structlog

from benchmarks.screenshots import DOCS, MOST, served

RUN = {"model": "stories", "prompt": "Once upon a time", "max_tokens": 64, "steps": 32, "seed": 6}
RUN |= {"sampler": "ancestral"}  # which also masks again
PICTURE = {"format": "gif", "theme": "light"}


def main() -> None:
    """Record the run and draw it."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with served() as url:
        recorded = json.loads(post(f"{url}/v1/diffusion/trajectories", RUN))
        body = {**PICTURE, "runs": [{"events": recorded["events"]}]}
        drawn = post(f"{url}/v1/diffusion/pictures", body)
    path = DOCS / "story.gif"
    path.write_bytes(drawn)
    print(f"{path}: {len(drawn) / 1000:.0f} kB")
    assert len(drawn) < MOST, f"{path} is too large"


def post(url: str, body: dict[str, Any]) -> bytes:
    """The answer to a JSON body."""
    headers = {"Content-Type": "application/json", "Accept": "application/json, image/gif"}
    with urlopen(Request(url, json.dumps(body).encode(), headers)) as response:
        return response.read()


if __name__ == "__main__":
    main()
