"""What a streamed answer says, and when: one reading of the bytes, whichever client got them.

Server-sent events of four kinds: completions and chat as OpenAI streams them (with or without the
``diffusion`` records that ``trajectory: "delta"`` adds), images, and recorded trajectories.
"""

from __future__ import annotations

from typing import Any, Literal

import orjson

Kind = Literal["completions", "chat", "trajectories", "images"]
KINDS: tuple[Kind, ...] = ("completions", "chat", "trajectories", "images")


class Reading:
    """Follows one answer. All times are those that ``feed`` was called with, in seconds.

    Attributes:
        first: the first event that is not a comment.
        settled: the first text that will not change (an image settles when it is finished).
        draft: the first canvas without masks; where none is told, the whole answer.
        ended: the event that says that all has been said.
        failure: what went wrong within the stream, by kind.
        text: what was written; base64 for images.
        usage: the last account that the server gave.
    """

    def __init__(self) -> None:
        """Nothing has been read yet."""
        self.first: float | None = None
        self.settled: float | None = None
        self.draft: float | None = None
        self.ended: float | None = None
        self.failure: str | None = None
        self.text = ""
        self.usage: dict[str, Any] = {}
        self.finish_reason: str | None = None
        self._buffer = b""
        self._data: list[bytes] = []
        self._answered: float | None = None
        self._replaces = False

    def feed(self, data: bytes, now: float) -> None:
        """Bytes of the body, as they came; an event may come in pieces, or several at once."""
        self._buffer += data
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            line = line.rstrip(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].strip())
            elif not line and self._data:
                whole, self._data = b"\n".join(self._data), []
                self._event(whole, now)

    def close(self) -> str | None:
        """The body is over: what kind of failure it was, or None where all was well."""
        if self.failure is None and self.ended is None:
            self.failure = "cut"
        if self.draft is None:
            self.draft = self._answered
        return self.failure

    def _event(self, data: bytes, now: float) -> None:
        if self.first is None:
            self.first = now
        if data == b"[DONE]":
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
        if "positions" in choice:  # diffusion.created describes its choices, and answers nothing
            return
        content = choice.get("text") or choice.get("b64_json")
        content = content or (choice.get("delta") or {}).get("content") or ""
        if event.get("diffusion_meta"):  # a whole canvas in place of the one before
            self._step(event["diffusion_meta"], now)
            self._replaces = True
        elif content:
            self._settle(now)
        self.text = (content or self.text) if self._replaces else self.text + content
        if choice.get("finish_reason"):
            self.finish_reason = choice["finish_reason"]
            self._answered = now
            if "elapsed_ms" in event:  # diffusion.completed, and nothing comes behind it
                self.ended = now

    def _image(self, event: dict[str, Any], now: float) -> None:
        if event["type"].endswith(".completed"):
            self._settle(now)
            self.text = event["b64_json"]
            self._answered = self.ended = now


def failure_of_status(status: int, body: bytes) -> str:
    """The kind of a failure that came as an HTTP status: the number, and the server's own code."""
    try:
        code = orjson.loads(body)["error"]["code"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        code = None
    return f"HTTP {status}" + (f" {code}" if code else "")
