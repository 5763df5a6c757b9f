"""Clients that read, write or speak badly."""

from __future__ import annotations

import gzip
import json
import re
import socket
import time
from contextlib import suppress

import pytest

from tests.support.http import wait_for
from tests.support.memory import rss, within
from tests.support.sockets import CANARY, LONG, connect, read_all, request_bytes

STREAM = {**LONG, "max_tokens": 100, "stream": True, "diffusing": True}


def is_gone(connection: socket.socket, seconds: float = 10) -> bool:
    """Whether the server closes a connection whose answers nobody reads."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            connection.sendall(b"x")
        except (BrokenPipeError, ConnectionResetError):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("readers", [4, pytest.param(64, marks=pytest.mark.slow)])
def test_row_05_slow_reader(server, readers):
    """Its buffer is bounded, it is closed when it leaves it full, and others are served."""
    before = rss()
    slow = [connect(server.port, receive_buffer=4096) for _ in range(readers)]
    for i, connection in enumerate(slow):
        connection.sendall(request_bytes({**STREAM, "seed": i}))
    for connection in slow:
        assert connection.recv(1)
    assert server.ask() == server.canary
    assert within(before + readers * (1 << 20) + (32 << 20))
    wait_for(lambda: server.busy == 0, 60)  # cancelled: they would take far more steps
    for connection in slow:
        connection.close()


def test_row_05_a_reader_that_is_only_slow_is_kept(server):
    """Steps are merged for it, and the end is there."""
    connection = connect(server.port, receive_buffer=4096)
    body = {**CANARY, "steps": 120, "max_tokens": 100, "stream": True, "trajectory": "delta"}
    connection.sendall(request_bytes({**body, "mixing_ratio": 0.3}))
    told = b""
    while not told.endswith(b"0\r\n\r\n"):
        piece = connection.recv(2000)
        assert piece
        told += piece
        time.sleep(0.003)
    connection.close()
    assert told.count(b"[DONE]") == 1 and told.count(b'"finish_reason":"') == 1


@pytest.mark.parametrize("clients", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_row_06_slowloris_headers(server, clients):
    slow = [connect(server.port) for _ in range(clients)]
    began = time.monotonic()
    for at in range(4):
        for connection in slow:
            connection.sendall(b"POST / HTTP/1.1\r\nX-A: b"[at : at + 1])
        time.sleep(0.05)
    assert server.ask() == server.canary  # meanwhile
    for connection in slow:
        answer = read_all(connection)
        assert answer.startswith(b"HTTP/1.1 408") and answer.count(b"HTTP/1.1") == 1
        assert b'"error"' in answer
    assert time.monotonic() - began < 5


def test_row_06_a_connection_that_says_nothing(server):
    with connect(server.port) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 408")


def test_row_06_deadlines_that_are_shipped():
    from server.http.protocol import GuardedProtocol

    assert GuardedProtocol.head_seconds <= 10
    assert GuardedProtocol.body_seconds <= 30 and GuardedProtocol.stall_seconds <= 30


@pytest.mark.parametrize("sent", [b"", b'{"prompt": '])
def test_row_07_short_body(server, sent):
    """The length is declared, the rest never comes."""
    connection = connect(server.port)
    head = request_bytes({}, headers="").replace(b"Content-Length: 2", b"Content-Length: 999")
    connection.sendall(head[:-2] + sent)
    answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 408") and answer.count(b"HTTP/1.1") == 1


def test_row_07_trickled_body(server):
    connection = connect(server.port)
    payload = request_bytes(CANARY)
    split = payload.index(b"\r\n\r\n") + 4
    connection.sendall(payload[:split])
    began = time.monotonic()
    with suppress(BrokenPipeError, ConnectionResetError):
        for byte in payload[split:]:
            connection.sendall(bytes([byte]))
            time.sleep(0.05)
    assert time.monotonic() - began < 5
    connection.close()


def test_row_07_half_a_body_then_the_client_closes(server):
    connection = connect(server.port)
    connection.sendall(request_bytes(CANARY)[:-5])
    connection.close()


SECOND = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHUNKED = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
POST = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
MALFORMED = {
    "both lengths": CHUNKED + b"Content-Length: 5\r\n\r\n0\r\n\r\n" + SECOND,
    "both lengths, other order": POST
    + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    + SECOND,
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef" + SECOND,
    "a length with a sign": POST + b"Content-Length: +5\r\n\r\nabcde" + SECOND,
    "a length that is none": POST + b"Content-Length: 5x\r\n\r\nabcde" + SECOND,
    "a length of 2^64": POST + b"Content-Length: 18446744073709551616\r\n\r\n" + SECOND,
    "chunked, but not last": POST
    + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"
    + SECOND,
    "bare line feeds": b"GET /health HTTP/1.1\nHost: localhost\n\n" + SECOND,
    "a bare line feed in the headers": b"GET /health HTTP/1.1\r\nHost: localhost\nX: y\r\n\r\n",
    "a bare carriage return": b"GET /health HTTP/1.1\r\nHost: local\rhost\r\n\r\n" + SECOND,
    "a chunk size that is none": CHUNKED + b"\r\nzz\r\nabc\r\n0\r\n\r\n" + SECOND,
    "a negative chunk": CHUNKED + b"\r\n-1\r\nabc\r\n0\r\n\r\n" + SECOND,
    "a chunk without its end": CHUNKED + b"\r\n3\r\nabcd\r\n0\r\n\r\n" + SECOND,
    "a chunk of 2^64": CHUNKED + b"\r\n10000000000000000\r\na" + SECOND,
    "a folded header": b"GET /health HTTP/1.1\r\nHost: localhost\r\n X: y\r\n\r\n" + SECOND,
    "a blank before the colon": b"GET /health HTTP/1.1\r\nHost : localhost\r\n\r\n" + SECOND,
    "a NUL in a header": b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: \0\r\n\r\n" + SECOND,
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100,
    "HTTP/9": b"GET /health HTTP/9.9\r\nHost: localhost\r\n\r\n" + SECOND,
    "a header without a name": b"GET /health HTTP/1.1\r\n: x\r\n\r\n" + SECOND,
}


@pytest.mark.parametrize("name", MALFORMED)
def test_row_08_malformed_requests(server, name):
    """One refusal, then the connection is closed; what follows is never answered."""
    connection = connect(server.port)
    connection.sendall(MALFORMED[name])
    answer = read_all(connection)
    assert re.match(rb"HTTP/1.1 (400|413|431|408) ", answer), answer
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"404" not in answer.split(b"\r\n")[0]


@pytest.mark.parametrize(
    "head",
    [
        b"GET /health HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % i for i in range(10_000)),
        b"GET /health HTTP/1.1\r\nX: " + b"y" * (1 << 20),
        b"GET /" + b"y" * (1 << 20),
        b"GET /health HTTP/1.1\r\n" + b"y" * (1 << 20) + b": z\r\n",
        b"GET /health HTTP/1.1\r\nX: " + b"y" * 40_000 + b"\r\n\r\n",
    ],
    ids=["10k headers", "1 MiB value", "1 MiB path", "1 MiB name", "40 kB at once"],
)
def test_row_08_huge_headers(server, head):
    before = rss()  # takes a while in a process with much garbage, and the head has a deadline
    connection = connect(server.port)
    with suppress(BrokenPipeError, ConnectionResetError):  # it may have hung up already
        connection.sendall(head)
    answer = read_all(connection)
    assert not answer or answer.startswith(b"HTTP/1.1 431")
    assert answer.count(b"HTTP/1.1 ") <= 1 and within(before + (16 << 20))


def test_row_08_garbage_behind_a_stream_ends_it_without_a_second_answer(server):
    """A refusal in the middle of an answer would be taken for a part of it."""
    connection = connect(server.port)
    connection.sendall(request_bytes({**STREAM, "steps": 4000}))
    assert connection.recv(10)
    connection.sendall(b"\0\0 no HTTP \r\n\r\n")
    assert read_all(connection).count(b"HTTP/1.1 ") <= 1
    wait_for(lambda: server.busy == 0)


def test_row_08_pipelined_requests_are_answered_in_order(server):
    connection = connect(server.port)
    get = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    connection.sendall(request_bytes(CANARY) + get + get[:-2] + b"Connection: close\r\n\r\n")
    answer = read_all(connection)
    assert answer.count(b"HTTP/1.1 200") == 3
    assert answer.index(b'"choices"') < answer.index(b'"status":"ok"')


@pytest.mark.parametrize("mib", [64, pytest.param(1024, marks=pytest.mark.slow)])
def test_row_09_a_stream_of_chunks_is_cut(server, mib):
    """413 as soon as it is too long; memory does not grow with what was sent."""
    before, sent, chunk = rss(), 0, b"10000\r\n" + b"x" * 65536 + b"\r\n"
    connection = connect(server.port)
    connection.sendall(CHUNKED + b"Content-Type: application/json\r\n\r\n")
    with suppress(BrokenPipeError, ConnectionResetError):
        while sent < mib << 20:
            connection.sendall(chunk)
            sent += 65536
    assert sent < 32 << 20  # it did not listen to the end
    assert within(before + (16 << 20))
    answer = read_all(connection)
    assert not answer or (answer.startswith(b"HTTP/1.1 413") and answer.count(b"HTTP/1.1 ") == 1)


def test_row_09_who_stops_sending_reads_the_refusal(server):
    connection = connect(server.port)
    connection.sendall(CHUNKED + b"Content-Type: application/json\r\n\r\n")
    connection.sendall(17 * (b"10000\r\n" + b"x" * 65536 + b"\r\n"))
    answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 413") and answer.count(b"HTTP/1.1 ") == 1


def test_row_09_a_gzip_bomb_is_refused_unread(server):
    bomb = gzip.compress(b'{"prompt": "' + b"x" * (64 << 20) + b'"}')
    before = rss()
    connection = connect(server.port)
    connection.sendall(request_bytes(bomb, "Content-Encoding: gzip\r\nConnection: close\r\n"))
    answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 415") and within(before + (16 << 20))
    assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]["message"]
