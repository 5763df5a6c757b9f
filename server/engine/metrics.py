"""Prometheus metrics. Names follow vLLM's where one exists; no label takes a value from a
client.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from importlib.metadata import version
from typing import ParamSpec

import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
)

from server.engine.events import Done, Event, Failed, GenerationRequest

log = structlog.get_logger()

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
STEP_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
PER_FORWARD = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64)

FAILURES = (
    *("cancelled", "queue_full", "queue_timeout", "deadline", "rate_limited", "shutting_down"),
    *("internal", "not_finite", "out_of_memory", "engine_hung"),
)
"""Codes of ``xdlm_request_failure_total``."""


Params = ParamSpec("Params")


def _guarded(record: Callable[Params, None]) -> Callable[Params, None]:
    """A method that logs its errors: counting a request does not make it fail."""

    @wraps(record)
    def guarded(*args: Params.args, **kwargs: Params.kwargs) -> None:
        try:
            record(*args, **kwargs)
        except Exception:
            log.exception("a metric could not be recorded", metric=record.__name__)

    return guarded


class Metrics:
    """All metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"xdlm_{name}", text, registry=self.registry, buckets=buckets)

        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"xdlm_{name}", text, labels, registry=self.registry)

        self._running = Gauge("xdlm_requests_running", "Requests denoised", registry=self.registry)
        self._waiting = Gauge("xdlm_requests_waiting", "Requests queued", registry=self.registry)
        self._success = counter("request_success", "Requests that succeeded", ("finish_reason",))
        self._failure = counter("request_failure", "Requests that failed", ("code",))
        self._latency = histogram("e2e_request_latency_seconds", "Arrival to end", SECONDS)
        self._settled = histogram(
            "time_to_first_settled_seconds", "Arrival to first settled text", SECONDS
        )
        self._draft = histogram("time_to_full_draft_seconds", "Arrival to a full draft", SECONDS)
        self._queue = histogram("request_queue_time_seconds", "Arrival to first step", SECONDS)
        self._denoise = histogram("request_denoise_time_seconds", "First step to end", SECONDS)
        self._prompt = counter("prompt_tokens", "Prompt tokens of finished requests")
        self._generated = counter("generation_tokens", "Tokens of finished texts")
        self._step = histogram("step_seconds", "One denoising step of the batch", STEP_SECONDS)
        self._batch = histogram("step_batch_size", "Requests in a step", COUNTS)
        self._positions = histogram("step_positions", "Positions in a step", COUNTS)
        self._steps = histogram("steps_per_request", "Denoising steps asked for", COUNTS)
        self._per_forward = histogram(
            "tokens_per_forward", "Positions written per network evaluation", PER_FORWARD
        )
        self._transitions = counter("transitions", "Positions changed", ("op",))
        self._skipped = counter("forwards_skipped", "Canvas steps without a network evaluation")
        self._run = counter("positions_run", "Positions that the network ran")
        self._kept = counter(
            "positions_kept", "Positions of the same canvases whose keys and values were kept"
        )
        self._cached = Gauge(
            "xdlm_cache_positions_used",
            "Positions whose keys and values are kept",
            registry=self.registry,
        )
        self._reused = counter(
            "prompt_positions_reused",
            "Prompt positions whose keys and values were computed for an earlier request",
        )
        self._replayed = counter("steps_replayed", "Denoising steps taken by a CUDA graph")
        self._head_rows = counter("head_rows", "Rows of logits computed")
        self._tasks = {
            "scores": counter("scores", "Texts scored"),
            "decisions": counter("decisions", "Steps of decisions read"),
        }
        Info("xdlm_build", "Version of the server", registry=self.registry).info(
            {"version": version("xdlm-serve")}
        )
        ProcessCollector(registry=self.registry)  # memory, open files, CPU time
        self._engines: list[tuple[Callable[[], int], ...]] = []
        for i, gauge in enumerate((self._running, self._waiting, self._cached)):
            gauge.set_function(lambda i=i: sum(engine[i]() for engine in self._engines))
        for code in FAILURES:
            self._failure.labels(code)
        for reason in ("stop", "length"):
            self._success.labels(reason)

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)

    def watch(
        self, running: Callable[[], int], waiting: Callable[[], int], cached: Callable[[], int]
    ) -> None:
        """Add an engine to the gauges, which report sums over all engines."""
        self._engines.append((running, waiting, cached))

    @_guarded
    def failed(self, code: str) -> None:
        """Count a request that failed outside its steps, or was refused."""
        self._failure.labels(code).inc()

    @_guarded
    def queued(self, seconds: float) -> None:
        """Record the time between arrival and first step of a request."""
        self._queue.observe(seconds)

    @_guarded
    def stepped(
        self,
        *,
        seconds: float,
        requests: int,
        positions: int,
        head_rows: int,
        skipped: int,
        run: int,
        kept: int,
        reused: int,
        replayed: bool = False,
    ) -> None:
        """One step of the batch is done."""
        self._step.observe(seconds)
        self._batch.observe(requests)
        self._positions.observe(positions)
        self._head_rows.inc(head_rows)
        self._skipped.inc(skipped)
        self._run.inc(run)
        self._kept.inc(kept)
        self._reused.inc(reused)
        self._replayed.inc(replayed)

    @_guarded
    def ended(self, request: GenerationRequest, event: Event, seconds: float) -> None:
        """A request reached its end in the engine."""
        if isinstance(event, Failed):
            self._failure.labels(event.code).inc()
        elif isinstance(event, Done):
            tally = event.tally
            self._latency.observe(seconds)
            self._draft.observe(seconds)
            self._denoise.observe(tally.denoise_ms / 1e3)
            self._prompt.inc(len(request.tokens) - tally.positions)
            self._steps.observe(tally.steps)
            self._per_forward.observe(tally.positions / max(1, tally.forwards))
            for op, count in (
                ("unmask", tally.unmasked),
                ("refine", tally.refined),
                ("remask", tally.remasked),
            ):
                self._transitions.labels(op).inc(count)

    @_guarded
    def finished(self, kind: str, failure: str | None) -> None:
        """Count a task of a kind, or a failure by its code."""
        if failure is None:
            self._tasks[kind].inc()
        else:
            self._failure.labels(failure).inc()

    @_guarded
    def settled(self, seconds: float) -> None:
        """The first settled text of a request went out."""
        self._settled.observe(seconds)

    @_guarded
    def succeeded(self, finish_reason: str, tokens: int) -> None:
        """A text was handed to its client."""
        self._success.labels(finish_reason).inc()
        self._generated.inc(tokens)
