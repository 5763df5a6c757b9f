"""``xdlm-loadtest``: load on a running server, from outside. Bounded in count and time."""

from __future__ import annotations

import http.client
import json
import statistics
import threading
import time
from dataclasses import dataclass, field
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Load tests for an xdlm-serve server."
)
TIMEOUT_SECONDS = 120


@app.callback()
def _group() -> None:
    """Load tests for an xdlm-serve server."""


@dataclass
class Outcomes:
    """What a run of requests gave, shared by its threads."""

    left: int
    latencies: list[float] = field(default_factory=list)
    tokens: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self) -> int | None:
        """Number of the next request, or None when all are taken."""
        with self.lock:
            if self.left == 0:
                return None
            self.left -= 1
            return self.left


def _client(url: str, body: dict[str, Any], outcomes: Outcomes, deadline: float) -> None:
    parts = urlsplit(url)
    make = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = make(parts.netloc, timeout=TIMEOUT_SECONDS)
    while time.monotonic() < deadline and (number := outcomes.take()) is not None:
        began = time.monotonic()
        try:
            connection.request(
                "POST",
                "/v1/completions",
                json.dumps({**body, "seed": number}),
                {"Content-Type": "application/json"},
            )
            response = connection.getresponse()
            answer = json.loads(response.read())
            kind = None if response.status == 200 else f"HTTP {response.status}"
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            answer, kind = {}, type(error).__name__
        seconds = time.monotonic() - began
        with outcomes.lock:
            if kind is None:
                outcomes.latencies.append(seconds)
                outcomes.tokens += answer["usage"]["completion_tokens"]
            else:
                outcomes.failures[kind] = outcomes.failures.get(kind, 0) + 1
    connection.close()


@app.command()
def smoke(
    url: Annotated[str, typer.Option(help="the server, for example http://127.0.0.1:8000")],
    requests: Annotated[int, typer.Option(min=1, max=10_000, help="how many at the most")] = 24,
    concurrency: Annotated[int, typer.Option(min=1, max=256)] = 4,
    seconds: Annotated[float, typer.Option(min=1, max=600, help="no new ones after this")] = 20,
    prompt: Annotated[str, typer.Option()] = "Once upon a time",
    max_tokens: Annotated[int, typer.Option(min=1)] = 64,
    steps: Annotated[int, typer.Option(min=1)] = 16,
) -> None:
    """Send completions in a closed loop; say how long they took. Exit code 1 if any failed."""
    body = {"prompt": prompt, "max_tokens": max_tokens, "steps": steps}
    outcomes = Outcomes(requests)
    began = time.monotonic()
    args = (url, body, outcomes, began + seconds)
    threads = [threading.Thread(target=_client, args=args) for _ in range(concurrency)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.monotonic() - began
    done, failed = len(outcomes.latencies), sum(outcomes.failures.values())
    print(f"{done} ok, {failed} failed {outcomes.failures or ''} in {elapsed:.1f} s")
    if done:
        cuts = statistics.quantiles([*outcomes.latencies, max(outcomes.latencies)], n=100)
        print(f"latency p50 {cuts[49] * 1e3:.0f} ms, p95 {cuts[94] * 1e3:.0f} ms")
        print(f"{done / elapsed:.2f} requests/s, {outcomes.tokens / elapsed:.0f} tokens/s")
    raise typer.Exit(1 if failed or not done else 0)


def main() -> None:
    """Entry point of the ``xdlm-loadtest`` console script."""
    app()


if __name__ == "__main__":
    main()
