"""Tokens as bytes: what each one stands for, and where it lies in the text that they make."""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, pairwise
from typing import Any, NamedTuple

from tokenizers import Tokenizer, pre_tokenizers

CHARACTER = re.compile(
    rb"[\xc2-\xdf][\x80-\xbf]?|\xe0[\xa0-\xbf][\x80-\xbf]?|\xed[\x80-\x9f][\x80-\xbf]?"
    rb"|[\xe1-\xec\xee\xef][\x80-\xbf]{0,2}|\xf0[\x90-\xbf][\x80-\xbf]{0,2}"
    rb"|\xf4[\x80-\x8f][\x80-\xbf]{0,2}|[\xf1-\xf3][\x80-\xbf]{0,3}|.",
    re.DOTALL,
)
"""A character in UTF-8, or the bytes that Unicode replaces by one U+FFFD."""
TRIED = 1024  # ids, to find one that makes a word
NEAR = 16  # characters within which an inexact decoder's token is looked for


class Token(NamedTuple):
    """One token of a text.

    Attributes:
        id: the token.
        data: its bytes of the text; None for a special token, which leaves no trace.
        start, end: the characters in which its first and its last byte lie, ``end`` exclusive.
        special: the name of a special token.
        spoiled: it is read as U+FFFD, whatever its own bytes are.
    """

    id: int
    data: bytes | None
    start: int
    end: int
    special: str = ""
    spoiled: bool = False

    @property
    def text(self) -> str | None:
        """Its text; None where its bytes are no whole characters."""
        if self.data is None:
            return self.special
        if self.spoiled:
            return None
        try:
            return self.data.decode()
        except UnicodeDecodeError:
            return None

    @property
    def escaped(self) -> str:
        r"""Its bytes, each as ``\xe2``."""
        return "".join(f"\\x{byte:02x}" for byte in self.data or b"")

    @property
    def label(self) -> str:
        r"""Its text, or ``bytes:\xe2\x80`` as OpenAI's completions name part of a character."""
        text = self.text
        return f"bytes:{self.escaped}" if text is None else text

    def cut(self, start: int, end: int) -> Token:
        """The part of it between two characters of the text."""
        if start <= self.start and self.end <= end:
            return self
        first, last = min(max(self.start, start), end), max(min(self.end, end), start)
        if self.data is None:
            return self._replace(start=first, end=max(first, last))
        characters = CHARACTER.findall(self.data)[first - self.start : last - self.start]
        return self._replace(data=b"".join(characters), start=first, end=max(first, last))


class Piece(NamedTuple):
    """An entry of the table.

    Attributes:
        data: the bytes of an id, inside a text.
        size: how many characters they are, if they are whole ones.
        closed: it is read the same whatever stands beside it.
    """

    data: bytes
    size: int
    closed: bool


class ByteTable:
    """The bytes of each id, for decoders that join them: byte-level ones, and those that write
    pieces out with single bytes for all else. Of any other decoder it keeps each id's text.

    Attributes:
        exact: the decoder joins bytes.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        special: Mapping[int, str],
        decode: Callable[[Sequence[int]], str],
        word: Sequence[int],
    ) -> None:
        """``special`` are the ids that leave no trace in a text, ``word`` those of any word, if
        there are some.
        """
        self._tokenizer, self._special, self._decode = tokenizer, special, decode
        words = chain([word], ([id_] for id_ in range(TRIED)))
        self._anchor = next((ids for ids in words if _is_word(decode(ids))), word)
        self._before = decode(self._anchor)
        self._pieces: dict[int, Piece] = {}
        state = tokenizer.decoder.__getstate__() if tokenizer.decoder else b"{}"
        steps = list(_steps(json.loads(state)))
        kinds = [step["type"] for step in steps]
        self._by_byte = {*kinds} - {"Fuse"} == {"ByteLevel"}
        self._falls_back = "ByteFallback" in kinds
        self.exact = self._by_byte or (bool(steps) and _joins(steps))
        self._letters = _letters() if self._by_byte else {}

    def of(self, id_: int) -> Piece:
        """The entry of an id."""
        found = self._pieces.get(id_)
        if found is None:
            found = self._pieces[id_] = self._piece(id_)
        return found

    def _piece(self, id_: int) -> Piece:
        name = self._tokenizer.id_to_token(id_)
        if id_ in self._special or name is None:
            return Piece(b"", 0, True)
        if self._falls_back and re.fullmatch("<0x[0-9A-F]{2}>", name):
            return Piece(bytes([int(name[3:5], 16)]), 1, False)
        if self._by_byte:
            known = all(letter in self._letters for letter in name)
            data = bytes(map(self._letters.__getitem__, name)) if known else name.encode()
        else:
            data = self._decode([*self._anchor, id_])[len(self._before) :].encode()
        try:
            return Piece(data, len(data.decode()), True)
        except UnicodeDecodeError:
            return Piece(data, 0, False)

    def alone(self, id_: int) -> Token:
        """An id as a token that stands inside a text, at no place of it."""
        special = self._special.get(id_, "")
        piece = self.of(id_)
        return Token(id_, None if special else piece.data, 0, piece.size, special)

    def tokens(self, before: Sequence[int], ids: Sequence[int], text: str) -> Iterator[Token]:
        """Ids as tokens of the text that they add behind others.

        Where the decoder joins bytes the tokens' own make up the text; elsewhere each token takes
        the characters of the text that look like it.
        """
        if not self.exact:
            yield from self.alike(ids, text)
            return
        pieces = [self.of(id_) for id_ in (*before, *ids)]
        given, size = len(before), len(text)
        spans, special = self._spans(pieces), self._special
        shift = (spans[-1][1] if spans else 0) - size
        for n, id_ in enumerate(ids, given):
            start, end, spoiled = spans[n]
            name = special.get(id_, "")
            data = None if name else pieces[n].data
            token = Token(id_, data, start - shift, end - shift, name, spoiled)
            yield token if start >= shift else token.cut(0, size)

    def alike(self, ids: Sequence[int], text: str) -> Iterator[Token]:
        """Ids as tokens of a text that is like theirs: together they are the text, in order."""
        ends, at = [0], 0
        for id_ in ids:
            piece = self.of(id_).data.decode(errors="replace")
            bare = piece.strip(" ")
            near = text.find(bare, at, at + len(piece) + NEAR) if bare else -1
            if not text.startswith(piece, at) and near >= 0:
                at = near + len(bare)
            else:
                at = min(at + len(piece), len(text))
            ends.append(at)
        last = max((n for n, id_ in enumerate(ids, 1) if id_ not in self._special), default=0)
        ends[last:] = [len(text) if last else 0] * (len(ends) - last)
        for id_, (start, end) in zip(ids, pairwise(ends), strict=True):
            name = self._special.get(id_, "")
            yield Token(id_, None if name else text[start:end].encode(), start, end, name)

    def _spans(self, pieces: Sequence[Piece]) -> list[tuple[int, int, bool]]:
        """The first character of each piece and the one after its last, and whether it is
        spoiled.
        """
        found: list[tuple[int, int, bool]] = []
        at = n = 0
        while n < len(pieces):
            _, size, closed = pieces[n]
            if closed:
                found.append((at, at := at + size, False))
                n += 1
                continue
            first = n
            while n < len(pieces) and not (pieces[n].closed and pieces[n].data):
                n += 1
            run = [piece.data for piece in pieces[first:n]]
            ends, spoiled = self._characters(b"".join(run))
            began = upto = 0
            for data in run:
                behind = began + len(data)
                start = bisect_right(ends, began)
                upto = max(upto, bisect_left(ends, behind) + 1 if data else start)
                found.append((at + start, at + upto, spoiled))
                began = behind
            at += len(ends)
        return found

    def _characters(self, run: bytes) -> tuple[Sequence[int], bool]:
        """Where the characters of some bytes end. Of single bytes that are no text together, each
        is replaced by a character of its own: they are spoiled.
        """
        if self._falls_back:
            try:
                run.decode()
            except UnicodeDecodeError:
                return range(1, len(run) + 1), True
        return [found.end() for found in CHARACTER.finditer(run)], False


def _is_word(text: str) -> bool:
    return bool(text.strip()) and "\N{REPLACEMENT CHARACTER}" not in text


def _letters() -> dict[str, int]:
    """The byte for which each letter of a byte-level vocabulary stands."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    other = [byte for byte in range(256) if byte not in plain]
    letters = {chr(byte): byte for byte in plain}
    letters |= {chr(256 + n): byte for n, byte in enumerate(other)}
    assert letters.keys() == set(pre_tokenizers.ByteLevel.alphabet())
    return letters


def _joins(steps: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a decoder joins what it makes of each token, but for blanks that it takes off the
    start of the whole.
    """
    kinds = [step["type"] for step in steps]
    fused = kinds.index("Fuse") if "Fuse" in kinds else len(kinds)
    if not {*kinds[:fused]} <= {"Replace", "ByteFallback", "Strip"}:
        return False
    return all(kind in ("Fuse", "Strip") for kind in kinds[fused:]) and not any(
        step.get("stop") for step in steps
    )


def _steps(decoder: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The steps that a decoder is made of."""
    if decoder.get("type") == "Sequence":
        for part in decoder["decoders"]:
            yield from _steps(part)
    elif "type" in decoder:
        yield decoder
