"""Reads streamed answers of all routes, and times their first event, settled text and end.

The kinds are completions and chat as OpenAI streams them (with or without the ``diffusion`` records
that ``trajectory: "delta"`` adds), images, and trajectories.
"""

from __future__ import annotations

from typing import Any, Literal

import orjson

from loadtest.sse import Decoder

Kind = Literal["completions", "chat", "trajectories", "images"]
KINDS: tuple[Kind, ...] = ("completions", "chat", "trajectories", "images")


class AnswerReader:
    """Reads one streamed answer. Times are the values of ``now`` given to ``feed``, in seconds.

    Attributes:
        first: time of the first event.
        settled: time of the first text that will not change; for images, of the final image.
        draft: time of the first canvas without masks; if none is streamed, of the whole answer.
        ended: time of the event that ends the answer.
        failure: kind of a failure in the stream, or None.
        text: the answer; base64 for images.
        usage: the last ``usage`` object.
        finish_reason: of the first choice, or None.
    """

    def __init__(self) -> None:
        """At the beginning of an answer."""
        self.first: float | None = None
        self.settled: float | None = None
        self.draft: float | None = None
        self.ended: float | None = None
        self.failure: str | None = None
        self.text = ""
        self.usage: dict[str, Any] = {}
        self.finish_reason: str | None = None
        self._decoder = Decoder()
        self._answered: float | None = None
        self._replaces = False

    def feed(self, piece: bytes, now: float) -> None:
        """Read a piece of the body, of any size, that arrived at ``now``."""
        for event in self._decoder.feed(piece):
            self._event(event.data.strip(), now)

    def close(self) -> str | None:
        """End of the body: the kind of failure, or None if the answer is complete."""
        if self.failure is None and self.ended is None:
            self.failure = "cut"
        if self.draft is None:
            self.draft = self._answered
        return self.failure

    def _event(self, data: str, now: float) -> None:
        if self.first is None:
            self.first = now
        if data == "[DONE]":
            self.ended = now
            return
        try:
            event = orjson.loads(data)
        except orjson.JSONDecodeError:
            self.failure = "not JSON"
            return
        if error := event.get("error"):
            self.failure = f"stream: {error.get('code') or error.get('type')}"
            return
        self.usage = event.get("usage") or self.usage
        if "b64_json" in event:
            self._image(event, now)
        elif event.get("choices"):
            self._choice(event, event["choices"][0], now)
        elif "masked" in event:  # a trajectory's step
            self._step(event, now)
        elif "block" in event:  # a trajectory's block is settled
            self._settle(now)

    def _step(self, record: dict[str, Any], now: float) -> None:
        if record["masked"] == 0 and self.draft is None:
            self.draft = now

    def _settle(self, now: float) -> None:
        if self.settled is None:
            self.settled = now

    def _choice(self, event: dict[str, Any], choice: dict[str, Any], now: float) -> None:
        if record := event.get("diffusion"):
            self._step(record, now)
        if "positions" in choice:  # diffusion.created lists choices without text
            return
        content = choice.get("text") or choice.get("b64_json")
        content = content or (choice.get("delta") or {}).get("content") or ""
        if event.get("diffusion_meta"):  # a whole canvas, which replaces the one before
            self._step(event["diffusion_meta"], now)
            self._replaces = True
        elif content:
            self._settle(now)
        self.text = (content or self.text) if self._replaces else self.text + content
        if choice.get("finish_reason"):
            self.finish_reason = choice["finish_reason"]
            self._answered = now
            if "elapsed_ms" in event:  # diffusion.completed, the last event
                self.ended = now

    def _image(self, event: dict[str, Any], now: float) -> None:
        if event["type"].endswith(".completed"):
            self._settle(now)
            self.text = event["b64_json"]
            self._answered = self.ended = now


def failure_of_status(status: int, body: bytes) -> str:
    """Kind of a failure with an HTTP status: its number, and the error code of the body."""
    try:
        code = orjson.loads(body)["error"]["code"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        code = None
    return f"HTTP {status}" + (f" {code}" if code else "")
