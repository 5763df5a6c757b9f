"""Requests to a server on loopback."""

from __future__ import annotations

import http.client
import json
import socket
import time
from contextlib import closing

from loadtest import sse

BODY = {"prompt": "Once upon a time", "max_tokens": 30, "steps": 6, "seed": 11}


def call(served, method, path, body=None, headers=None, timeout=30.0):
    payload = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    open_ = http.client.HTTPConnection("127.0.0.1", served.port, timeout=timeout)
    with closing(open_) as connection:
        connection.request(method, path, payload, headers or {"Content-Type": "application/json"})
        with connection.getresponse() as response:
            return response, response.read()


def post(served, **body):
    response, text = call(served, "POST", "/v1/completions", body)
    return response.status, json.loads(text)


def events(text: str) -> list[str]:
    """Data of each event of a stream."""
    return [event.data for event in sse.decode(text)]


def metric(served, name: str) -> float:
    _, text = call(served, "GET", "/metrics")
    for line in text.decode().splitlines():
        if line.startswith(f"{name} "):
            return float(line.split()[-1])
    raise AssertionError(f"{name} is not exported")


def raw_post(
    port: int, body: dict, headers: str = "", path: str = "/v1/completions"
) -> socket.socket:
    payload = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\n".encode()
        + b"Content-Type: application/json\r\n"
        + f"{headers}Content-Length: {len(payload)}\r\n\r\n".encode()
        + payload
    )
    return connection


def wait_for(condition, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)
