"""Splits the bytes of a connection into messages (RFC 9112) before they are parsed.

The parser reports the end of a message but not its byte position, which is needed to hold back the
next request and to drop header fields.
"""

from __future__ import annotations

import re

MAX_HEADERS = 100
MAX_HEAD = 32 << 10  # bytes of a request line and its headers, and of the trailer after a body
MAX_CHUNK_LINE = 1 << 10  # bytes of a chunk's size and its extensions
MAX_OVERHEAD = 64 << 10  # bytes of framing that a body may have beyond those of its data

REQUEST_LINE = re.compile(rb"[A-Z-]{1,20} [^\s]+ HTTP/1\.[01]\r\n")
BEGUN_LINE = re.compile(rb"[A-Z-]{1,20}(?: [^\r\n]*\r?)?")
BARE_LF = re.compile(rb"(?<!\r)\n")
UPGRADE = re.compile(rb"\r\nupgrade:[^\r\n]*(?=\r\n)", re.IGNORECASE)
CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\r\n]*)?")
FIELD = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[^\r\n\0]*\r\n"
TRAILER = re.compile(rb"(?:%s){0,%d}\r\n" % (FIELD, MAX_HEADERS))


class Refused(Exception):
    """The client's bytes are not a valid request; ``status`` is that of the response."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class Framing:
    """Splits the bytes of a connection into heads and parts of bodies.

    ``Upgrade`` headers (RFC 9110, 7.8) and trailer fields (RFC 9110, 6.5.1) are dropped.

    Attributes:
        ended: whether the current body has been taken completely.
    """

    def __init__(self) -> None:
        """Start with an empty buffer."""
        self._held = bytearray()
        self._scanned = 0  # bytes of a head in which its end has been looked for
        self._left = 0  # bytes of a body, or of a chunk and its line end
        self._chunked = self._in_trailer = False
        self._overhead = 0  # bytes of framing less those of data
        self.ended = True  # the body that was begun last

    def __len__(self) -> int:
        """Bytes in the buffer."""
        return len(self._held)

    def feed(self, data: bytes) -> None:
        """Append bytes from the client."""
        self._held += data

    def clear(self) -> None:
        """Discard the buffer."""
        self._held.clear()

    def starts(self) -> bool:
        """Whether a head has begun; empty lines before it are dropped."""
        blank = len(self._held) - len(self._held.lstrip(b"\r\n"))
        del self._held[:blank]
        return bool(self._held)

    def check(self, size: int = MAX_HEAD) -> None:
        """Check the request line, as far as it has been received.

        Raises:
            Refused: it is not HTTP/1.0 or HTTP/1.1, or is for a proxy.
        """
        first = self._held.find(b"\n", 0, size)
        if first >= 0:
            _check_line(bytes(self._held[: first + 1]))
        elif not BEGUN_LINE.fullmatch(self._held, 0, size):
            raise Refused(400, "the request is not valid HTTP")

    def head(self) -> bytes | None:
        """A request line with its headers, once it is complete.

        Raises:
            Refused: it is invalid or too large.
        """
        held = self._held
        end = held.find(b"\r\n\r\n", max(0, self._scanned - 3))
        size = len(held) if end < 0 else end + 4
        if size > MAX_HEAD:
            raise Refused(431, f"the headers have more than {MAX_HEAD} bytes")
        self.check(size)
        if BARE_LF.search(held, max(0, self._scanned - 1), size):
            raise Refused(400, "a line of the headers does not end in CRLF")
        if end < 0:
            self._scanned = size
            return None
        head = UPGRADE.sub(b"", held[:size])
        del held[:size]
        self._scanned = 0
        return bytes(head)

    def begin_body(self, length: int | None) -> None:
        """Begin a body of ``length`` bytes, or a chunked one for None."""
        self._chunked, self._left = length is None, length or 0
        self._overhead, self.ended = 0, False

    def body(self) -> bytes:
        """The received part of the body, with its chunk framing; it may be empty.

        Raises:
            Refused: a chunk size is invalid, or there is too much framing.
        """
        if not self._chunked:
            piece = self._taken(self._passed(0))
            self.ended = self._left == 0
            return piece
        taken = b"" if self._in_trailer else self._taken(self._end_of_chunks())
        return taken + self._end_of_trailer() if self._in_trailer else taken

    def _taken(self, size: int) -> bytes:
        taken = bytes(self._held[:size])
        del self._held[:size]
        return taken

    def _passed(self, at: int) -> int:
        """The index after the received part of ``_left`` bytes that begin at ``at``."""
        passed = min(self._left, len(self._held) - at)
        self._left -= passed
        return at + passed

    def _end_of_chunks(self) -> int:
        """The index after all chunk lines and chunk data received."""
        held, at = self._held, self._passed(0)
        while at < len(held):
            end = held.find(b"\r\n", at, at + MAX_CHUNK_LINE)
            if end < 0:
                if len(held) - at >= MAX_CHUNK_LINE or b"\n" in held[at:]:
                    raise Refused(400, f"a chunk's size takes more than {MAX_CHUNK_LINE} bytes")
                break
            found = CHUNK_SIZE.fullmatch(held, at, end)
            if found is None:
                raise Refused(400, "a chunk's size is not a hexadecimal number")
            size = int(found[1], 16)
            self._overhead = max(0, self._overhead + end + 4 - at - size)
            if self._overhead > MAX_OVERHEAD:
                raise Refused(400, "the body is cut into too many small chunks")
            at = end + 2
            if size == 0:
                self._in_trailer = True
                break
            self._left = size + 2
            at = self._passed(at)
        return at

    def _end_of_trailer(self) -> bytes:
        """The empty line that ends the body, once the trailer is complete."""
        held = self._held
        end = 2 if held.startswith(b"\r\n") else held.find(b"\r\n\r\n") + 4
        if (len(held) if end == 3 else end) > MAX_HEAD:
            raise Refused(431, f"the trailer has more than {MAX_HEAD} bytes")
        if end == 3:  # not found
            return b""
        if not TRAILER.fullmatch(held, 0, end):
            raise Refused(400, f"the trailer is not up to {MAX_HEADERS} valid fields")
        del held[:end]
        self._in_trailer, self.ended = False, True
        return b"\r\n"


def _check_line(line: bytes) -> None:
    """Refuse an invalid request line."""
    if not REQUEST_LINE.fullmatch(line):
        other = re.search(rb" HTTP/[0-9.]+\r\n\Z", line)
        words = "the HTTP version must be 1.0 or 1.1" if other else "the request is not valid HTTP"
        raise Refused(400, words)
    if line.startswith(b"CONNECT "):
        raise Refused(400, "CONNECT is not supported: this server is not a proxy")
