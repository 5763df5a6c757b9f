"""Draws one picture and ends: a program of its own, so that whatever a body holds costs nobody else
memory, the interpreter's lock or the event loop.

It reads a line of JSON (``Task``) and the body, and answers with lines of JSON: the picture's or
error's, or before it those that ask for images of a decoder's codes. Bytes follow a line where it
says how many.
"""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
from PIL import Image

from server.trajectories import render
from server.trajectories.form import Form, TooMuch
from server.trajectories.replay import Frame, Replay
from server.trajectories.sheet import GAP, sheet_of
from server.trajectories.themes import THEMES, Theme

CPU_SECONDS = 20
MEMORY = 512 << 20
"""Bytes besides those that Python and the libraries take."""
MAX_VALUES = 1 << 20
"""Of a body; each takes some tens of bytes once it is read. A recording of 8 MiB has 700,000."""
MAX_RUNS = 4
SIDE = 200  # pixels of an image's longer side, about
COLUMNS = 4
GREY = 128  # where no image token stands
CHOICES = {"format": ("gif", "png"), "theme": tuple(THEMES), "sync": ("progress", "time")}
"""Fields of the body that choose a word; the first is the default."""


class Refused(Exception):
    """The body cannot be drawn: message, field, and the error's code."""


class Sheets:
    """Draws images: by their ids alone, or by pixels that the server's decoder makes of them."""

    def __init__(
        self, decoders: dict[str, Any], requests: IO[bytes], answers: IO[bytes], theme: Theme
    ) -> None:
        """``decoders``: of each model that makes images, ``length``, ``levels``, ``height`` and
        ``width`` in pixels, and ``cells``, rows and columns of its tokens.
        """
        self._decoders = decoders
        self._requests, self._answers, self._theme = requests, answers, theme

    def check(self, replay: Replay) -> None:
        """Whether the replay's canvases can be drawn.

        Raises:
            ValueError: they cannot.
        """
        if replay.grid is None:
            return
        if replay.grid.tokens == "vq":
            decoder = self._decoders.get(replay.model)
            if decoder is None or any(len(e) != decoder["length"] for e in replay.editable):
                raise ValueError(f"only a server of {replay.model[:64]!r} can draw its codes")
        elif any(len(editable) != replay.grid.length for editable in replay.editable):
            sizes = {len(editable) for editable in replay.editable}
            message = f"a canvas has {max(sizes)} positions, its image {replay.grid.length}"
            raise ValueError(message)

    def _pixels(self, replay: Replay) -> tuple[int, int]:
        """Height and width of one image."""
        assert replay.grid is not None
        if replay.grid.tokens != "vq":
            return replay.grid.height, replay.grid.width
        decoder = self._decoders[replay.model]
        return decoder["height"], decoder["width"]

    def _layout(self, replay: Replay) -> tuple[int, int]:
        """Images in a row, and how many times larger each pixel is shown."""
        return min(COLUMNS, len(replay.editable)), max(1, SIDE // max(self._pixels(replay)))

    def size(self, replay: Replay) -> tuple[int, int]:
        """See ``form.Sheet``."""
        height, width = self._pixels(replay)
        columns, scale = self._layout(replay)
        rows = -(-len(replay.editable) // columns)
        return (columns * (width + GAP) + GAP) * scale, (rows * (height + GAP) + GAP) * scale

    def __call__(self, replay: Replay, frames: Sequence[Frame]) -> Image.Image:
        """See ``form.Sheet``."""
        assert replay.grid is not None
        ids = np.array([frame.ids for frame in frames], np.int64)
        if replay.grid.tokens == "vq":
            pixels, decoder = self._decoded(replay, ids), self._decoders[replay.model]
            cells = (ids >= decoder["levels"]).reshape(len(ids), -1, *decoder["cells"])
            missing = np.asarray(cells.any(1))
        else:
            grid = replay.grid
            values = ids
            if grid.tokens == "grey levels":
                values = np.rint(ids * 255.0 / (grid.levels - 1))
            values = np.where(ids < grid.levels, values, GREY).astype(np.uint8)
            channels = grid.length // (grid.height * grid.width)
            shape = (len(ids), channels, grid.height, grid.width)
            pixels = np.moveaxis(values.reshape(shape), 1, -1)
            missing = np.asarray((ids >= grid.levels).reshape(shape).any(1))
        return sheet_of(pixels, missing, *self._layout(replay), self._theme.paper)

    def _decoded(self, replay: Replay, ids: np.ndarray) -> np.ndarray:
        told = {"decode": replay.model, "images": len(ids), "bytes": ids.nbytes}
        tell(self._answers, told, ids.tobytes())
        shape = json.loads(self._requests.readline())
        found = self._requests.read(math.prod(shape))
        return np.frombuffer(found, np.uint8).reshape(shape)


def draw(task: dict[str, Any], body: bytes, requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer with the picture that a body asks for.

    Raises:
        Refused: it cannot be drawn.
    """
    asked, runs = read(body)
    body = b""
    theme = THEMES[asked["theme"]]
    sheets = Sheets(task["decoders"], requests, answers, theme)
    try:
        replays = []
        while runs:
            replays.append(Replay.of(runs.pop(0)))
            sheets.check(replays[-1])
        form = Form(replays, sheets, theme, asked["sync"] == "time")
        if asked["format"] == "gif":
            made = render.moving(form, task["frames"], task["pixels"])
        else:
            made = render.still(form, task["pixels"])
    except TooMuch as error:
        raise Refused(str(error), "runs", "limit_exceeded") from None
    except MemoryError:
        message = f"the picture takes more memory than the limit, {MEMORY >> 20} MiB"
        raise Refused(message, "runs", "limit_exceeded") from None
    except ValueError as error:
        raise Refused(f"runs: {str(error)[:400]}", "runs", "invalid_value") from None
    told = {"picture": asked["format"], "note": made.note, "bytes": len(made.data)}
    tell(answers, told, made.data)


def read(body: bytes) -> tuple[dict[str, str], list[Any]]:
    """The chosen words of ``CHOICES``, and the events of each run.

    Raises:
        Refused: the body is not JSON, or holds something else.
    """
    if (values := body.count(b",") + 1) > MAX_VALUES:
        message = f"the number of values in the body is {values}; the limit is {MAX_VALUES}"
        raise Refused(message, None, "limit_exceeded")
    try:
        parsed = json.loads(body.decode(), object_pairs_hook=_object, parse_constant=_constant)
        if b"\\ud" in body.lower():
            json.dumps(parsed, ensure_ascii=False).encode()
    except UnicodeError:
        raise Refused("the body is not valid Unicode text", None, "invalid_json") from None
    except RecursionError:
        raise Refused("the body is nested too deeply", None, "invalid_json") from None
    except ValueError as error:
        message = f"the body is not valid JSON: {str(error)[:200]}"
        raise Refused(message, None, "invalid_json") from None
    if not isinstance(parsed, dict):
        raise Refused("the body must be a JSON object", None, "invalid_value")
    for name in parsed:
        if name != "runs" and name not in CHOICES:
            raise Refused(f"unknown field {name[:64]!r}", name[:64], "invalid_value")
    asked = {}
    for name, words in CHOICES.items():
        word = parsed.get(name)
        asked[name] = words[0] if word is None else word
        if asked[name] not in words:
            listed = " or ".join(map(repr, words))
            raise Refused(f"{name}: Input should be {listed}", name, "invalid_value")
    runs = parsed.get("runs")
    if not isinstance(runs, list) or not 1 <= len(runs) <= MAX_RUNS:
        count = f"{len(runs)} runs" if isinstance(runs, list) else "no list"
        raise Refused(f"runs: {count}; 1 to {MAX_RUNS} can be drawn", "runs", "invalid_value")
    for run in runs:
        if not isinstance(run, dict) or not {"events"} <= run.keys() <= {"events", "id"}:
            message = "runs: each must have events, and nothing else but id"
            raise Refused(message, "runs", "invalid_value")
        if not isinstance(run.get("id"), str | None):
            raise Refused("runs: id is no text", "runs", "invalid_value")
    return asked, [run["events"] for run in runs]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, count in Counter(n for n, _ in pairs).items() if count > 1)
        raise ValueError(f"{twice[:64]!r} is given twice")
    return found


def _constant(name: str) -> float:
    raise ValueError(f"{name} is no finite number")


def tell(answers: IO[bytes], line: dict[str, Any], payload: bytes = b"") -> None:
    """A line, and the bytes that follow it."""
    answers.write(json.dumps(line).encode() + b"\n" + payload)
    answers.flush()


def limit() -> None:
    """Bound what this process may take from here on."""
    with open("/proc/self/statm", encoding="ascii") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for ending in (signal.SIGINT, signal.SIGTERM):  # it ends with the server, not before
        signal.signal(ending, signal.SIG_IGN)
    os.nice(5)


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer once."""
    task = json.loads(requests.readline() or b"null")
    if task is None:
        return
    try:
        draw(task, requests.read(task["bytes"]), requests, answers)
    except Refused as error:
        message, param, code = error.args
        tell(answers, {"error": {"message": message, "param": param, "code": code}})
    except MemoryError:
        message = f"the body takes more memory than the limit, {MEMORY >> 20} MiB"
        told = {"message": message, "param": None, "code": "limit_exceeded"}
        tell(answers, {"error": told})


if __name__ == "__main__":
    limit()
    serve(sys.stdin.buffer, sys.stdout.buffer)
