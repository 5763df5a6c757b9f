"""Traces by OpenTelemetry: a span for each request, and under it the queue and the denoising of
each text. Imports OpenTelemetry only when a tracer is made; without one nothing is done.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.config import ConfigError
from server.engine.events import Tally

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

_told: ContextVar[Callable[[Tally], None] | None] = ContextVar("told", default=None)


def ended(tally: Tally) -> None:
    """A text has ended: tell the trace of the request that reads it, if there is one."""
    if tell := _told.get():
        tell(tally)


def exporting(endpoint: str) -> TracerProvider:
    """Sends spans to an OTLP collector over HTTP, in the background; ``shutdown`` sends the last.

    Raises:
        ConfigError: the extra ``otel`` is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise ConfigError("trace_endpoint: needs the extra otel (pip install '.[otel]')") from None

    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: "xdlm-serve"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
    return provider


class Tracing:
    """ASGI middleware. Continues the trace of a ``traceparent`` header. Attributes are routes,
    statuses and counts: nothing else that a client wrote, and nothing that a model did.
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

        def tell(tally: Tally) -> None:
            end = time.time_ns()
            began = end - int(tally.denoise_ms * 1e6)
            submitted = began - int(tally.queue_ms * 1e6)
            self.tracer.start_span("queue", inside, start_time=submitted).end(began)
            counts = {
                f"xdlm.{name}": getattr(tally, name)
                for name in ("steps", "forwards", "positions", "unmasked", "refined", "remasked")
            }
            denoise = self.tracer.start_span("denoise", inside, start_time=began, attributes=counts)
            denoise.end(end)

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                span.set_attribute("http.response.status_code", message["status"])
            await send(message)

        token = _told.set(tell)
        try:
            await self.app(scope, receive, noted)
        finally:
            _told.reset(token)
            if route := getattr(scope.get("route"), "path", None):
                span.update_name(f"{scope['method']} {route}")
                span.set_attributes({"http.request.method": scope["method"], "http.route": route})
            span.end()
