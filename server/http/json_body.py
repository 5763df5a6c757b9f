"""Strict JSON request bodies."""

from __future__ import annotations

import codecs
import json
import math
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from server.http.described_route import DescribedRoute
from server.http.errors import ApiError, invalid
from server.http.json_shape import Shape
from server.http.offload import offload

MAX_DIGITS = 32  # of an integer
MAX_NUMBER = 512  # characters of any other number
SHORT = 4  # digits of integers that are made once


class JsonRequest(Request):
    """A request whose ``json`` is a checked model of the route's."""

    def __init__(self, request: Request, model: type[BaseModel]) -> None:
        """The same request, with the model that its body is read as."""
        super().__init__(request.scope, request.receive)
        self._model = model

    async def json(self) -> Any:
        """The body, read once; a large one is parsed and validated in a thread.

        Raises:
            ApiError: as ``parse`` and ``checked``; 499 where the client went away before the end.
        """
        if not hasattr(self, "_json"):
            text = await whole_body(self)
            self._json = await offload(len(text), checked, self._model, text)
        return self._json


class JsonRoute(DescribedRoute):
    """A route whose body, where it takes one, is strict JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The route's handler, preceded by reading the body."""
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle
        model = self.body_field.field_info.annotation
        assert isinstance(model, type) and issubclass(model, BaseModel)

        async def strict(request: Request) -> Response:
            given = JsonRequest(request, model)
            check_type(given)
            await given.json()
            return await handle(given)

        return strict


def checked(model: type[BaseModel], body: bytes) -> BaseModel:
    """A body as its model.

    Raises:
        ApiError: 400 with the first error.
    """
    try:
        return model.model_validate(parse(body))
    except ValidationError as error:
        raise invalid(error) from None


def check_type(request: Request) -> None:
    """Whether a request says that its body is JSON.

    Raises:
        ApiError: 400.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(400, "the body must be sent with Content-Type: application/json")


async def whole_body(request: Request) -> bytes:
    """The body of a request, without a byte order mark.

    Raises:
        ApiError: 499 where the client went away before the end.
    """
    try:
        return (await request.body()).removeprefix(codecs.BOM_UTF8)
    except ClientDisconnect:
        raise ApiError(499, "client closed the request", code="cancelled") from None


def parse(body: bytes) -> Any:
    """A JSON text in UTF-8. Refuses what JSON readers disagree on: duplicate names, numbers that
    are not finite, and unpaired surrogates.

    Raises:
        ApiError: 400.
    """
    Shape.of(body).check()
    try:
        parsed = json.loads(
            body.decode(),
            object_pairs_hook=_object,
            parse_float=_float,
            parse_int=_Integers().__getitem__,
            parse_constant=_float,
        )
    except json.JSONDecodeError as error:
        raise _bad(f"the body is not valid JSON: {error}") from None
    except UnicodeDecodeError as error:
        raise _bad(f"the body is not valid UTF-8 at byte {error.start}") from None
    if b"\\ud" in body or b"\\uD" in body:
        _refuse_surrogates(parsed)
    return parsed


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
    if len(digits) > MAX_NUMBER:
        raise _bad(f"a number has {len(digits)} characters; the limit is {MAX_NUMBER}")
    if not math.isfinite(number := float(digits)):
        raise _bad(f"{digits[:32]} is not a finite number")
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


class _Integers(dict[str, int]):
    """Integers of one body by their digits; short ones are made once, as a prompt of token ids
    repeats them.
    """

    def __missing__(self, digits: str) -> int:
        if len(digits) > MAX_DIGITS:
            raise _bad(f"an integer has {len(digits)} digits; the limit is {MAX_DIGITS}")
        number = int(digits)
        if len(digits) <= SHORT:
            self[digits] = number
        return number


def _refuse_surrogates(parsed: Any) -> None:
    """Refuse unpaired surrogates, iteratively so that other threads can run in between."""
    fields = parsed.items() if isinstance(parsed, dict) else [(None, parsed)]
    for name, value in fields:
        for given, param in ((name, None), (value, name)):
            parts = [given]
            while parts:
                part = parts.pop()
                if isinstance(part, dict):
                    parts += part
                    parts += part.values()
                elif isinstance(part, list):
                    parts += part
                elif isinstance(part, str) and not _is_unicode(part):
                    words = "the body" if param is None else param
                    raise _bad(f"{words} is not valid Unicode text", param)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
