"""Raw connections to a server on loopback."""

from __future__ import annotations

import json
import socket

from loadtest import sse
from tests.server.conftest import quiet, tiny, tiny_folder  # noqa: F401 (fixtures)

CANARY = {"prompt": "Once upon a time", "max_tokens": 30, "steps": 6, "seed": 11}

LONG = {**CANARY, "steps": 4000}
"""Runs for seconds, on whatever machine."""


def request_bytes(
    body: dict | bytes, headers: str = "", path: str = "/v1/completions", method: str = "POST"
) -> bytes:
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"{headers}Content-Length: {len(payload)}\r\n\r\n"
    return head.encode() + payload


def connect(port: int, receive_buffer: int = 0) -> socket.socket:
    connection = socket.socket()
    connection.settimeout(60)
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    try:
        connection.connect(("127.0.0.1", port))
    except OSError:
        connection.close()
        raise
    return connection


def send(port: int, body: dict, **more: str) -> socket.socket:
    connection = connect(port)
    try:
        connection.sendall(request_bytes(body, **more))
    except OSError:
        connection.close()
        raise
    return connection


def reset(connection: socket.socket) -> None:
    """Hang up without a farewell."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()


def read_all(connection: socket.socket) -> bytes:
    """All bytes until the server closes."""
    found = bytearray()
    try:
        while piece := connection.recv(65536):
            found += piece
    except ConnectionResetError:
        pass
    connection.close()
    return bytes(found)


def events_of(raw: bytes) -> list[str]:
    """Data of the events of a raw chunked response."""
    body = raw.split(b"\r\n\r\n", 1)[1]
    text = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        text += rest[:length]
        body = rest[length + 2 :]
    return [event.data for event in sse.decode(text)]
