"""From a client to a replica and back.

An answer that is not a stream is complete before anything of it is sent, so a replica may die in it
without the client noticing: another is asked. Of a stream that has begun, the lost rest is one
error event.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import asyncio
import codecs
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson
import structlog
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from server.cluster.messages import TRAJECTORY, ForwardedRequest, model_tag
from server.http.anthropic import anthropic_error, speaks_anthropic
from server.http.errors import ApiError, error_body

log = structlog.get_logger()

TRIES = 8  # replicas that are asked before the cluster is called full
WAIT_SECONDS = 30.0  # for a replica to take a request
ELSEWHERE = ("queue_full", "not_ready")  # refusals by one replica, not of the request
STREAMS = ("text/event-stream", "application/x-ndjson")
TRAJECTORIES = "/v1/diffusion/trajectories"
LOST_EVENTS = {
    TRAJECTORIES: b"diffusion.failed",
    "/v1/images/generations": b"error",
    "/v1/responses": b"error",
    "/v1/messages": b"error",
}
"""Names of the last event of a stream whose replica is lost; other routes' events have none."""


@dataclass(frozen=True)
class Answer:
    """A replica's answer: whole, or its start and a stream of the parts to come."""

    replica: str
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes | DeploymentResponseGenerator[Any]


class ReplicaProxy:
    """An ASGI application that has the replicas answer."""

    def __init__(self, replicas: Mapping[str, DeploymentHandle[Any]]) -> None:
        """Handles by the name of the model; the first is the one that requests get."""
        self._replicas = {
            name: handle.options(method_name="answer", stream=True)
            for name, handle in replicas.items()
        }
        self._default = next(iter(replicas))
        self._by_tag = {model_tag(name): name for name in replicas}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry point. Stops the replica's work when the client goes away."""
        request = await _received(scope, receive)
        answering = asyncio.create_task(self._answer(request, send))
        gone = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait((answering, gone), return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()
        finally:
            answering.cancel()
            gone.cancel()
            await asyncio.gather(answering, gone, return_exceptions=True)

    async def _answer(self, request: ForwardedRequest, send: Send) -> None:
        if request.method == "GET" and request.path == "/v1/models" and len(self._replicas) > 1:
            await self._models(request, send)
            return
        model, owner_tag = self._place(request)
        answer = await self._asked(model, replace(request, owner_tag=owner_tag))
        start: Message = {"type": "http.response.start", "status": answer.status}
        await send({**start, "headers": answer.headers})
        if isinstance(answer.body, bytes):
            await send({"type": "http.response.body", "body": answer.body})
            return
        last = b""
        try:
            async for part in answer.body:
                await send({"type": "http.response.body", "body": part, "more_body": True})
        except (RayError, RayServeException) as error:
            log.error("a replica was lost", replica=answer.replica, error=type(error).__name__)
            last = lost_event(request.path, Headers(raw=answer.headers)["content-type"])
        finally:
            answer.body.cancel()
        await send({"type": "http.response.body", "body": last})

    async def _models(self, request: ForwardedRequest, send: Send) -> None:
        """The lists of all models as one."""
        listed: list[Any] = []
        for model in self._replicas:
            answer = await self._asked(model, request)
            assert isinstance(answer.body, bytes)
            listed += orjson.loads(answer.body)["data"]
        body = orjson.dumps({"object": "list", "data": listed})
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _place(self, request: ForwardedRequest) -> tuple[str, str]:
        """The model whose replicas are asked, and the tag of the one that must answer, or
        an empty one.
        """
        kept = request.path.startswith(TRAJECTORIES)
        last = Headers(raw=request.headers).get("last-event-id", "")
        if kept and (found := TRAJECTORY.search(request.path) or TRAJECTORY.match(last)):
            return self._by_tag.get(found[1], self._default), found[2]
        if request.path.startswith("/v1/models/"):
            return self._known(request.path.removeprefix("/v1/models/")), ""
        try:
            body = orjson.loads(request.body.removeprefix(codecs.BOM_UTF8))
        except orjson.JSONDecodeError:
            body = None  # a replica says what is wrong with it
        return self._known(body.get("model") if isinstance(body, dict) else None), ""

    def _known(self, model: object) -> str:
        return model if isinstance(model, str) and model in self._replicas else self._default

    async def _asked(self, model: str, request: ForwardedRequest) -> Answer:
        """The answer of a replica that has a place for the request, or of one that has none if none
        has; of another one where one is lost.

        Raises:
            ApiError: 503 if there is no replica.
        """
        refusal: Answer | None = None
        for _ in range(TRIES):
            try:
                answer = await self._tried(model, request)
            except (RayError, RayServeException) as error:
                log.warning("a replica is lost", error=type(error).__name__)
                continue
            except TimeoutError:
                break
            if answer.replica in request.refused or not _no_place(answer):
                return answer
            refusal = answer
            request = replace(request, refused=request.refused | {answer.replica})
        if refusal is not None:
            return refusal
        raise ApiError(503, "no replica answers", code="not_ready", retry_after=5)

    async def _tried(self, model: str, request: ForwardedRequest) -> Answer:
        """The answer of one replica."""
        parts = self._replicas[model].remote(request)
        assert isinstance(parts, DeploymentResponseGenerator)  # as ``stream`` asks for
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                replica = await anext(parts)
            status, headers = await anext(parts)
            if Headers(raw=headers).get("content-type", "").startswith(STREAMS):
                return Answer(replica, status, headers, parts)
            return Answer(replica, status, headers, b"".join([part async for part in parts]))
        except BaseException:
            parts.cancel()
            raise


def _no_place(answer: Answer) -> bool:
    """Whether another replica may take what this one did not."""
    if answer.status not in (429, 503) or not isinstance(answer.body, bytes):
        return False
    return orjson.loads(answer.body)["error"]["code"] in ELSEWHERE


def lost_event(path: str, kind: str) -> bytes:
    """The last event of a stream whose replica is lost, as the routes write failures."""
    told = (500, "the replica that answered was lost", None, "replica_lost")
    data = orjson.dumps(
        anthropic_error(*told, None) if speaks_anthropic(path) else error_body(*told)
    )
    if kind.startswith("application/x-ndjson"):
        return b'{"event":"diffusion.failed","data":' + data + b"}\n"
    found = next((LOST_EVENTS[route] for route in LOST_EVENTS if path.startswith(route)), None)
    event = b"" if found is None else b"event: " + found + b"\n"
    return event + b"data: " + data + b"\n\n"


async def _received(scope: Scope, receive: Receive) -> ForwardedRequest:
    """A request with all of its body."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    headers = [(k, v) for k, v in scope["headers"] if k != b"x-request-id"]
    headers.append((b"x-request-id", scope["request_id"].encode()))
    return ForwardedRequest(
        scope["method"], scope["path"], scope["query_string"], headers, body, scope.get("client")
    )


async def _gone(receive: Receive) -> None:
    """Wait until the client goes away."""
    while (await receive())["type"] != "http.disconnect":
        pass
