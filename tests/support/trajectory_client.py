"""How a client reads trajectories: frames of a stream, and canvases from their records."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterable, Iterator
from typing import Any

from loadtest import sse

PATH = "/v1/diffusion/trajectories"
MASK = 4453


class Follower:
    """A connection that reads a stream frame by frame."""

    def __init__(self, served, method="POST", path=PATH, body=None, **headers) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
        payload = None if body is None else json.dumps(body)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request(
            method, path, payload, {"Content-Type": "application/json", **headers}
        )
        self.socket = self.connection.sock
        self.response = self.connection.getresponse()
        self.status = self.response.status

    def lines(self) -> Iterator[str]:
        while line := self.response.readline():
            yield line.decode()
        self.connection.close()

    def frames(self) -> Iterator[dict[str, str]]:
        """Events of a stream. Each must consist of the lines id, event and data, in this order."""
        decoder, names = sse.Decoder(), []
        for line in self.lines():
            names += [line.partition(":")[0]] if line.strip() else []
            for event in decoder.feed(line.encode()):
                assert [name for name in names if name] == ["id", "event", "data"]
                yield {"id": event.id, "event": event.name, "data": event.data}
                names = []
        assert not any(names)

    def read(self) -> str:
        """All that is left."""
        return "".join(self.lines())

    def hang_up(self) -> None:
        """Reset the connection."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.response.close()
        self.connection.close()
        self.socket.close()


def records(served, body=None, path=PATH, method="POST", **headers) -> list[dict[str, Any]]:
    """All records of a stream, as the other forms have them."""
    follower = Follower(served, method, path, body, **headers)
    assert follower.status == 200, follower.read()
    return [record_of(frame) for frame in follower.frames()]


def record_of(frame: dict[str, str]) -> dict[str, Any]:
    return {"event": frame["event"], "id": frame["id"], "data": json.loads(frame["data"])}


def replayed(steps: Iterable[dict[str, Any]], merged: bool = False, mask: int = MASK) -> list[int]:
    """The last canvas of one choice, from its first snapshot and the changes alone; where steps
    may have been merged, the kind of a change is its last.
    """
    canvas: list[int] = []
    for number, step in enumerate(steps):
        if number == 0:
            assert step["step"] == 0 and step["changes"] == []
            canvas = list(step["snapshot"]["ids"])
        for change in step["changes"]:
            old = canvas[change["pos"]]
            assert change["was"] == (None if old == mask else old)
            assert merged or change["op"] == operation(old, change["id"], mask)
            canvas[change["pos"]] = change["id"]
        assert step["masked"] == canvas.count(mask)
        if "snapshot" in step:
            assert step["snapshot"]["ids"] == canvas
    return canvas


def operation(old: int, new: int, mask: int) -> str:
    if new == mask:
        return "remask"
    return "unmask" if old == mask else "refine"


def steps_of(told: Iterable[dict[str, Any]], choice: int = 0) -> list[dict[str, Any]]:
    """The step records of one choice."""
    return [
        r["data"] for r in told if r["event"] == "diffusion.step" and r["data"]["choice"] == choice
    ]
