"""OpenTelemetry traces: a span for each request, with child spans for queueing and denoising.

OpenTelemetry is imported only when a tracer is made; without one, nothing is recorded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

RecordSpans = Callable[[float, float, Mapping[str, int]], None]
"""Records a finished generation: milliseconds queued, milliseconds denoised, counts by name."""

_recorder: ContextVar[RecordSpans | None] = ContextVar("recorder", default=None)


def span_recorder() -> RecordSpans | None:
    """Adds child spans to the current request's span; None when requests are not traced."""
    return _recorder.get()


def exporting(endpoint: str) -> TracerProvider:
    """A provider that sends spans to an OTLP collector over HTTP, in the background.

    ``shutdown`` sends the spans that are left.

    Raises:
        ImportError: the extra ``otel`` is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise ImportError("needs the extra otel (pip install '.[otel]')") from None

    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: "xdlm-serve"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
    return provider


class Tracing:
    """ASGI middleware that records a span for each request, continuing a ``traceparent`` header.

    Attributes of spans are routes, statuses and counts; no text of a client or a model is recorded.
    """

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self.app, self.tracer = app, tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry point."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        from opentelemetry.trace import SpanKind, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = TraceContextTextMapPropagator().extract(Headers(scope=scope))
        span = self.tracer.start_span("request", parent, SpanKind.SERVER)
        inside = set_span_in_context(span, parent)

        def record(queue_ms: float, denoise_ms: float, counts: Mapping[str, int]) -> None:
            end = time.time_ns()
            began = end - int(denoise_ms * 1e6)
            submitted = began - int(queue_ms * 1e6)
            self.tracer.start_span("queue", inside, start_time=submitted).end(began)
            attributes = {f"xdlm.{name}": count for name, count in counts.items()}
            denoise = self.tracer.start_span(
                "denoise", inside, start_time=began, attributes=attributes
            )
            denoise.end(end)

        async def with_status(message: Message) -> None:
            if message["type"] == "http.response.start":
                span.set_attribute("http.response.status_code", message["status"])
            await send(message)

        token = _recorder.set(record)
        try:
            await self.app(scope, receive, with_status)
        finally:
            _recorder.reset(token)
            if route := getattr(scope.get("route"), "path", None):
                span.update_name(f"{scope['method']} {route}")
                span.set_attributes({"http.request.method": scope["method"], "http.route": route})
            span.end()
