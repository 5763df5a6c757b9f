"""Request bodies as JSON, read so that there is one way to understand them."""

from __future__ import annotations

import codecs
import json
import math
from array import array
from collections import Counter
from collections.abc import Callable, Coroutine
from itertools import accumulate
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from server.http.errors import ApiError
from server.http.offload import aside

MAX_DEPTH = 32
MAX_DIGITS = 32  # of an integer
BRACKETS = bytes.maketrans(b"[{]}", b"\1\1\xff\xff")  # +1 and -1 as signed bytes
OTHERS = bytes(set(range(256)) - set(b"[{]}"))


class JsonRequest(Request):
    """A request whose ``json`` is strict."""

    async def json(self) -> Any:
        """The body, read once.

        Raises:
            ApiError: as ``parse``; 499 where the client went away before the end.
        """
        if not hasattr(self, "_json"):
            try:
                body = await self.body()
            except ClientDisconnect:
                raise ApiError(499, "client closed the request", code="cancelled") from None
            text = body.removeprefix(codecs.BOM_UTF8)
            self._json = await aside(len(text), parse, text)
        return self._json


class JsonRoute(APIRoute):
    """A route whose body, where it takes one, is strict JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler behind the reading of the body."""
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def strict(request: Request) -> Response:
            given = JsonRequest(request.scope, request.receive)
            kind = given.headers.get("content-type", "").split(";")[0].strip().lower()
            if kind != "application/json":
                raise ApiError(400, "the body must be sent with Content-Type: application/json")
            await given.json()
            return await handle(given)

        return strict


def parse(body: bytes) -> Any:
    """A JSON text in UTF-8. What readers disagree on is refused: names that occur twice, numbers
    that are not finite, half of a surrogate pair.

    Raises:
        ApiError: 400.
    """
    if (depth := nesting(body)) > MAX_DEPTH:
        raise _bad(f"the body is nested {depth} deep; the limit is {MAX_DEPTH}")
    try:
        parsed = json.loads(
            body.decode(),
            object_pairs_hook=_object,
            parse_float=_float,
            parse_int=_int,
            parse_constant=_float,
        )
    except json.JSONDecodeError as error:
        raise _bad(f"the body is not valid JSON: {error}") from None
    except UnicodeDecodeError as error:
        raise _bad(f"the body is not valid UTF-8 at byte {error.start}") from None
    if b"\\ud" in body or b"\\uD" in body:
        _refuse_surrogates(parsed)
    return parsed


def nesting(body: bytes) -> int:
    """The depth of brackets outside strings, up to where the text stops being JSON; no recursion,
    and no loop over bytes in Python.
    """
    unescaped = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside = b"".join(unescaped.split(b'"')[::2])
    return max(accumulate(array("b", outside.translate(BRACKETS, OTHERS))), default=0)


def _bad(message: str, param: str | None = None) -> ApiError:
    return ApiError(400, message, param=param, code="invalid_json")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, count in Counter(n for n, _ in pairs).items() if count > 1)
        name = twice[:64].encode(errors="replace").decode()
        raise _bad(f"{name!r} is given twice", name)
    return found


def _float(digits: str) -> float | int:
    """JSON has one kind of number: 4.0 is the integer 4, as JSON Schema has it."""
    if not math.isfinite(number := float(digits)):
        raise _bad(f"{digits[:32]} is no finite number")
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


def _int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise _bad(f"an integer has {len(digits)} digits; the limit is {MAX_DIGITS}")
    return int(digits)


def _refuse_surrogates(parsed: Any) -> None:
    fields = parsed.items() if isinstance(parsed, dict) else [(None, parsed)]
    for name, value in fields:
        for part, param in ((name, None), (value, name)):
            try:
                json.dumps(part, ensure_ascii=False).encode()
            except UnicodeEncodeError:
                words = "the body" if param is None else param
                raise _bad(f"{words} is not valid Unicode text", param) from None
