"""Spans of a real server, kept in memory."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import uvicorn
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from server.api.app import create_app
from server.http.tracing import Tracing
from tests.support.http import BODY, call
from tests.support.processes import serving
from tests.support.serving import Served, make_engine, settings_of

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SECRET = "zebra"


@pytest.fixture(scope="module")
def traced(tiny):
    spans, provider, engine = InMemorySpanExporter(), TracerProvider(), make_engine(tiny)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    app = Tracing(
        create_app([engine], settings_of(api_keys=["sk-zebra"])), provider.get_tracer("x")
    )
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield Served(f"http://127.0.0.1:{port}", port, engine), spans
    server.should_exit = True
    thread.join()


def spans_of(traced, path: str, body: dict | None, **headers: str):
    server, spans = traced
    spans.clear()
    known = {"Authorization": "Bearer sk-zebra", "Content-Type": "application/json", **headers}
    status = call(server, "POST" if body else "GET", path, body, known)[0].status
    until = time.monotonic() + 5
    while not any(span.kind.name == "SERVER" for span in spans.get_finished_spans()):
        assert time.monotonic() < until
        time.sleep(0.01)
    return status, sorted(spans.get_finished_spans(), key=lambda span: span.start_time)


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_a_span_with_queue_and_denoising_in_it(traced, stream):
    body = {**BODY, "prompt": SECRET, "user": SECRET, "n": 2, "stream": stream, "seed": 1}
    parent = f"00-{TRACE}-{CALLER}-01"
    status, spans = spans_of(traced, f"/v1/completions?{SECRET}=1", body, traceparent=parent)
    assert status == 200 and len(spans) == 5
    (root,) = [span for span in spans if span.kind.name == "SERVER"]
    assert root.name == "POST /v1/completions" and root.parent.span_id == int(CALLER, 16)
    assert root.attributes["http.response.status_code"] == 200
    for name in ("queue", "denoise"):
        parts = [span for span in spans if span.name == name]
        assert len(parts) == 2
        for part in parts:
            assert part.parent.span_id == root.context.span_id
            assert part.context.trace_id == int(TRACE, 16)
            assert part.start_time <= part.end_time <= root.end_time
    denoise = next(span for span in spans if span.name == "denoise")
    assert denoise.attributes["xdlm.steps"] == BODY["steps"]
    assert all(SECRET not in span.to_json() for span in spans)


def test_refusals_and_unknown_paths_tell_nothing_of_what_was_written(traced):
    for path, body, status in (
        ("/v1/completions", {**BODY, SECRET: 1}, 400),
        (f"/{SECRET}", None, 404),
        (f"/v1/models/{SECRET}", None, 404),
    ):
        found, (span,) = spans_of(traced, path, body, baggage=f"{SECRET}=1", traceparent=SECRET)
        assert found == status and span.attributes["http.response.status_code"] == status
        assert SECRET not in span.to_json() and span.parent is None


def test_a_process_sends_its_spans_before_it_ends(tiny_folder):
    received: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{collector.server_port}/v1/traces"
        with serving(str(tiny_folder), XDLM_TRACE_ENDPOINT=endpoint) as server:
            time.sleep(0.3)
            body = {**BODY, "prompt": SECRET}
            assert call(server, "POST", "/v1/completions", body)[0].status == 200
        collector.shutdown()
    assert {path for path, _ in received} == {"/v1/traces"}
    sent = b"".join(content for _, content in received)
    assert b"POST /v1/completions" in sent and b"denoise" in sent and b"zebra" not in sent
