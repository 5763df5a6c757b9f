"""Calls of tools in a generated text, read while it grows."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from server.output.thoughts import Thoughts


@dataclass(frozen=True)
class CallPiece:
    """A call, or more of its arguments.

    Attributes:
        index: of the call in the answer.
        arguments: JSON of an object, or more of it.
        id, name: of the call and its function; with its first piece only.
    """

    index: int
    arguments: str
    id: str = ""
    name: str = ""


@dataclass(frozen=True)
class Heard:
    """Thoughts, texts and calls that a piece of the generated text adds to an answer, in their
    order.
    """

    parts: tuple[str | CallPiece | Thoughts, ...] = ()

    @property
    def text(self) -> str:
        """All texts."""
        return "".join(part for part in self.parts if isinstance(part, str))

    @property
    def calls(self) -> tuple[CallPiece, ...]:
        """All calls, and pieces of them."""
        return tuple(part for part in self.parts if isinstance(part, CallPiece))

    def joined(self, more: Heard) -> Heard:
        """This and what comes after it."""
        return Heard(self.parts + more.parts)

    def whole(self) -> Heard:
        """The same with one part for each text, each call and all thoughts in a row."""
        found: list[str | CallPiece | Thoughts] = []
        for part in self.parts:
            last = found[-1] if found else None
            if isinstance(part, Thoughts):
                if isinstance(last, Thoughts):
                    found[-1] = Thoughts(last.text + part.text)
                else:
                    found.append(part)
            elif isinstance(part, str):
                if isinstance(last, str):
                    found[-1] = last + part
                elif part:
                    found.append(part)
            elif isinstance(last, CallPiece) and last.index == part.index:
                found[-1] = replace(last, arguments=last.arguments + part.arguments)
            else:
                found.append(part)
        return Heard(tuple(found))


class CallReader(ABC):
    """Divides a text into content and calls.

    Attributes:
        calls: number of calls so far.
    """

    calls: int = 0

    @abstractmethod
    def feed(self, text: str) -> Heard:
        """Read more of the text."""

    @abstractmethod
    def end(self) -> Heard:
        """The rest, after the whole text."""

    def _call(self, name: str, arguments: str) -> CallPiece:
        """The first piece of the next call."""
        self.calls += 1
        return CallPiece(self.calls - 1, arguments, f"call_{secrets.token_hex(12)}", name)


class TextOnly(CallReader):
    """A text without calls."""

    def feed(self, text: str) -> Heard:
        """See ``CallReader``."""
        return Heard((text,) if text else ())

    def end(self) -> Heard:
        """See ``CallReader``."""
        return Heard()


class TaggedCalls(CallReader):
    """Calls as JSON objects with ``name`` and ``arguments`` between two tags, and text around them.

    A call is told when it is complete. What stands between the tags and is no call of a known tool
    is text. White space beside calls is left out.
    """

    def __init__(self, tags: tuple[str, str], tools: Collection[str], single: bool) -> None:
        """``single``: the text ends after the first call."""
        self._open, self._close = tags
        self._tools, self._single = tools, single
        self._held = ""

    def feed(self, text: str) -> Heard:
        """See ``CallReader``."""
        self._held += text
        return self._read(last=False)

    def end(self) -> Heard:
        """See ``CallReader``."""
        heard = self._read(last=True)
        final = heard.parts[-1] if heard.parts else None
        if self.calls and isinstance(final, str) and not final.strip():
            return Heard(heard.parts[:-1])
        return heard

    def _read(self, last: bool) -> Heard:
        parts: list[str | CallPiece] = []
        while not (self._single and self.calls):
            held, begin = self._held, self._held.find(self._open)
            if begin < 0:
                size = len(held) if last else len(held) - self._undecided(held)
                parts.append(held[:size])
                self._held = held[size:]
                break
            inside = begin + len(self._open)
            end = held.find(self._close, inside)
            if end < 0 and not last:
                before = held[:begin].rstrip()
                parts.append(before)
                self._held = held[len(before) :]
                break
            stop = len(held) if end < 0 else end
            found = call_of(held[inside:stop], self._tools)
            after = min(stop + len(self._close), len(held))
            if found is None:
                parts.append(held[:after])
            else:
                parts.append(held[:begin].rstrip())
                parts.append(self._call(found[0], orjson.dumps(found[1]).decode()))
            self._held = held[after:]
        return Heard(tuple(part for part in parts if part))

    def _undecided(self, text: str) -> int:
        """Characters at the end with which a call, or white space before one, may begin."""
        sizes = range(min(len(self._open) - 1, len(text)), 0, -1)
        begun = next((n for n in sizes if text.endswith(self._open[:n])), 0)
        before = text[: len(text) - begun]
        return begun + len(before) - len(before.rstrip())


class ForcedCall(CallReader):
    """A text that is one call, or has none. Arguments are told as they come."""

    def __init__(self, beginnings: Mapping[str, str], ending: str) -> None:
        """Names of functions by the text before their arguments, and the text after them."""
        self._beginnings, self._ending = beginnings, ending
        self._held, self._plain = "", False

    def feed(self, text: str) -> Heard:
        """See ``CallReader``."""
        self._held += text
        parts: list[str | CallPiece] = []
        if self._plain:
            return self.end()
        if not self.calls:
            found = next((b for b in self._beginnings if self._held.startswith(b)), None)
            if found is None:
                self._plain = not any(b.startswith(self._held) for b in self._beginnings)
                return self.end() if self._plain else Heard()
            parts.append(self._call(self._beginnings[found], ""))
            self._held = self._held[len(found) :]
        if (size := len(self._held) - len(self._ending)) > 0:
            parts.append(CallPiece(self.calls - 1, self._held[:size]))
            self._held = self._held[size:]
        return Heard(tuple(parts))

    def end(self) -> Heard:
        """See ``CallReader``."""
        rest, self._held = self._held, ""
        if not self.calls:
            return Heard((rest,) if rest else ())
        return Heard(() if rest == self._ending else (CallPiece(self.calls - 1, rest),))


def read_whole(reader: CallReader, text: str) -> Heard:
    """The texts and the calls of a whole text."""
    return reader.feed(text).joined(reader.end()).whole()


def call_of(text: str, tools: Collection[str]) -> tuple[str, dict[str, Any]] | None:
    """The name and the arguments of a call; None for other texts."""
    given = object_of(text)
    if given is None or not isinstance(given.get("name"), str) or given["name"] not in tools:
        return None
    arguments = given.get("arguments", {})
    if isinstance(arguments, str):
        arguments = object_of(arguments)
    return (given["name"], arguments) if isinstance(arguments, dict) else None


def object_of(text: str) -> dict[str, Any] | None:
    """The object that a JSON text stands for; None for other texts."""
    try:
        given = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return given if isinstance(given, dict) else None
