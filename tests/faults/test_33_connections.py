"""Every state of a connection, and what a client may do in it: its answers, and its end."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from server.api.lifecycle import affordable_connections
from tests.faults.conftest import Hasty
from tests.support.effort import count, some
from tests.support.http import call, wait_for
from tests.support.memory import rss, within
from tests.support.serving import Served, make_engine, run_server, settings_of
from tests.support.sockets import CANARY, connect, read_all, request_bytes

GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
SECONDS = 12  # all deadlines below, and a busy machine
PIECE = b"x" * 65536

STATES = {
    "fresh": b"",
    "request line": b"GET /hea",
    "headers": b"GET /health HTTP/1.1\r\nHost: local",
    "body": POST + b"Content-Length: 500\r\n\r\n{",
    "upgrade": POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 500\r\n\r\n",
    "chunk": CHUNKED + b"5\r\nab",
    "answered": GET,
    "refused": POST + b"Content-Length: 2000000\r\n\r\n",
    "stream": request_bytes({**CANARY, "stream": True, "steps": 60, "trajectory": "delta"}),
    "pipelined": request_bytes({**CANARY, "steps": 40}) + GET,
    "HTTP/1.0": b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n",
}
DEEDS = {
    "silence": b"",
    "line ends": b"\r\n\r\n",
    "bytes": b"\x00\x01 no HTTP\r\n\r\n",
    "trailer": b"0\r\nAuthorization: x\r\n\r\n",
    "CONNECT": b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "request": GET,
    "half-close": None,
}


def same(names: Iterable[str], codes: list[int]) -> dict[str, list[int]]:
    return dict.fromkeys(names, codes)


BAD = same(("bytes", "trailer", "CONNECT"), [400])
LATE = same(DEEDS, [408])
EXPECTED: dict[str, dict[str, list[int]]] = {
    "fresh": {**LATE, **BAD, "request": [200]},
    "request line": {**same(DEEDS, [400]), "silence": [408]},
    "headers": {**same(DEEDS, [400]), "silence": [408]},
    "body": LATE,
    "upgrade": LATE,
    "chunk": {**same(DEEDS, [400]), "silence": [408]},
    "answered": {**same(DEEDS, [200]), **same(BAD, [200, 400])},
    "refused": same(DEEDS, [413]),
    "stream": same(DEEDS, [200]),
    "pipelined": {**same(DEEDS, [200, 200]), **same(BAD, [200, 200, 400])},
    "HTTP/1.0": same(DEEDS, [200]),
}
for state in ("answered", "stream", "pipelined"):
    EXPECTED[state]["request"] = [*EXPECTED[state]["request"], 200]


class Brisk(Hasty):
    """Every deadline, the idle connection's too, is one that a test can wait for."""

    linger_seconds = 0.3

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.timeout_keep_alive = 1
        self.most = 24


@pytest.fixture(scope="module")
def brisk(tiny):
    limits = settings_of(max_body_mb=1, max_bodies_mb=4, host="0.0.0.0")
    yield from run_server(make_engine(tiny), limits, http=Brisk)


def statuses(raw: bytes) -> list[int]:
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3}) ", raw)]


def told(port: int, *sent: bytes) -> bytes:
    connection = connect(port)
    for part in sent:
        connection.sendall(part)
        time.sleep(0.05)
    return read_all(connection)


@pytest.mark.parametrize("state", STATES)
def test_connection_in_each_state_has_its_answers_and_is_closed(brisk, state):
    """Whatever the client does in it; a connection for each deed, all at once."""
    with ThreadPoolExecutor(len(DEEDS)) as pool:
        list(pool.map(lambda deed: check_connection(brisk, state, deed), DEEDS))
    wait_for(lambda: brisk.engine.idle, 30)


def check_connection(brisk: Served, state: str, deed: str) -> None:
    connection, raw = connect(brisk.port), b""
    connection.settimeout(SECONDS)
    connection.sendall(STATES[state])
    if state in ("answered", "refused", "stream", "HTTP/1.0"):
        raw = connection.recv(9)
    began = time.monotonic()
    with suppress(BrokenPipeError, ConnectionResetError, OSError):
        if DEEDS[deed] is None:
            connection.shutdown(socket.SHUT_WR)
        else:
            connection.sendall(DEEDS[deed])
    assert call(brisk, "GET", "/health")[0].status == 200
    found = statuses(raw + read_all(connection))
    assert time.monotonic() - began < SECONDS, deed
    expected = EXPECTED[state][deed]
    if deed == "half-close":  # it may have had some already, and gets no more
        expected = EXPECTED[state]["silence"]
        assert found == expected[: len(found)] and 408 not in found, deed
    elif state == "headers" and deed in ("line ends", "trailer", "CONNECT", "request"):
        assert found in ([400], [404], [200]), deed  # one request, whatever its Host has become
    else:
        assert found == expected, deed


UPGRADES = [
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n",
    b"Connection: upgrade\r\nUpgrade: websocket\r\n",  # nginx with the usual map
    b"connection: keep-alive, UPGRADE\r\nuPGRADE: TLS/1.0, h2c\r\n",
    b"Connection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: websocket\r\n",
    b"Upgrade: \r\nConnection: upgrade\r\n",
]


@pytest.mark.parametrize("headers", some(UPGRADES, 2))
def test_upgrade_that_is_not_taken_is_ignored(brisk, headers):
    given = request_bytes(CANARY, headers.decode())
    head, body = given.split(b"\r\n\r\n", 1)
    smuggled = GET.ljust(len(body))[: len(body)]
    parts = ([given + GET], [head + b"\r\n\r\n", body, GET], [head + b"\r\n\r\n", smuggled])
    with ThreadPoolExecutor(3) as pool:
        *whole, refused = pool.map(lambda sent: told(brisk.port, *sent), parts)
    for raw in whole:
        assert statuses(raw) == [200, 200] and b'"choices"' in raw
    assert statuses(refused) == [400]


def test_trailer_fields_are_no_headers(brisk):
    body = request_bytes(CANARY).split(b"\r\n\r\n", 1)[1]
    trailer = (
        b"0;x=y\r\nX-Request-Id: of-a-trailer\r\nHost: evil\r\nContent-Type: text/plain\r\n\r\n"
    )
    raw = told(
        brisk.port, CHUNKED, b"%x\r\n%s\r\n" % (len(body), body), trailer[:20], trailer[20:] + GET
    )
    assert statuses(raw) == [200, 200] and b"of-a-trailer" not in raw


@pytest.mark.parametrize(
    "endless",
    [b"0\r\nX: ", b"0\r\n", b"0\r\n" + b"X: y\r\n" * 200 + b"\r\n", b"5;", b"5;a\r\nabcde\r\n1"],
    ids=["trailer value", "trailer name", "trailer fields", "extension", "chunk size"],
)
def test_framing_without_an_end_is_refused_in_little_memory(brisk, endless):
    before = rss()
    connection = connect(brisk.port)
    with suppress(BrokenPipeError, ConnectionResetError):
        connection.sendall(CHUNKED + endless)
        for _ in range(512):
            connection.sendall(PIECE)
    assert not (found := statuses(read_all(connection))) or found in ([400], [431])
    assert within(before + (16 << 20))


def test_body_of_single_bytes_is_refused_for_its_framing(brisk):
    assert statuses(told(brisk.port, CHUNKED + b"1\r\n \r\n" * 40_000)) == [400]


def test_long_pipeline_is_answered_whole(brisk):
    many = count(300, 1000)
    assert statuses(told(brisk.port, GET * many)) == [200] * many


@pytest.mark.parametrize(
    "line",
    [b"GET /health RTSP/1.0", b"GET /health HTTP/2.0", b"PRI * HTTP/2.0", b"GET /health",
     b"GET /health ICE/1.0", b"GET /health HTTP/0.9", b"GET  /health HTTP/1.1"],
)  # fmt: skip
def test_request_line_of_another_protocol_is_refused(brisk, line):
    assert statuses(told(brisk.port, line + b"\r\nHost: localhost\r\n\r\n" + GET)) == [400]


@pytest.mark.parametrize("coding", [b"gzip, chunked", b"chunked, chunked", b"identity"])
def test_transfer_coding_that_is_not_known_is_refused(brisk, coding):
    sent = POST + b"Transfer-Encoding: " + coding + b"\r\n\r\n0\r\n\r\n" + GET
    assert statuses(told(brisk.port, sent)) == [400]


def test_http_1_0_stream_ends_with_its_connection(brisk):
    given = request_bytes({**CANARY, "stream": True}).replace(b"HTTP/1.1", b"HTTP/1.0")
    head, body = told(brisk.port, given).split(b"\r\n\r\n", 1)
    assert b"chunked" not in head and head.lower().count(b"connection:") == 1
    assert body.startswith(b"data: {") and body.endswith(b"\n\ndata: [DONE]\n\n")
    assert statuses(told(brisk.port, b"GET /health HTTP/1.0\r\n\r\n")) == [200]
    assert statuses(told(brisk.port, b"GET /health HTTP/1.1\r\n\r\n")) == [400]
    blanks = GET.replace(b" localhost", b" \t localhost \t ")
    assert statuses(told(brisk.port, blanks)) == [200]


def test_bodies_one_byte_short_are_bounded_together(brisk):
    """The largest that are not complete make room; a complete request is answered meanwhile."""
    before, held = rss(), []
    for _ in range(16):
        connection = connect(brisk.port)
        connection.sendall(POST + b"Content-Length: 1048576\r\n\r\n")
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(b" " * ((1 << 20) - 1))
        held.append(connection)
    assert call(brisk, "POST", "/v1/completions", CANARY)[0].status == 200
    assert within(before + (16 << 20))
    raw = [read_all(connection) for connection in held]
    found = [code for one in raw for code in statuses(one)]
    assert 503 in found and set(found) <= {503, 408}
    assert all(b"retry-after: 1" in one for one in raw if b" 503 " in one)


def test_connections_that_say_two_bytes_lock_nobody_out(brisk):
    slow = [connect(brisk.port) for _ in range(60)]
    for connection in slow:
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(b"GE")
    assert call(brisk, "GET", "/health")[0].status == 200
    for connection in slow:
        assert set(statuses(read_all(connection))) <= {408, 503}


def test_connections_are_as_many_as_descriptors_allow():
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        assert 8 <= affordable_connections() < 256 - 16
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
