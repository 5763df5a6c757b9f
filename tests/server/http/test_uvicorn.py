"""The parts of uvicorn that the server's own protocol class is built on, public or not."""

from __future__ import annotations

import ast
import asyncio
import inspect
from importlib.metadata import version

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from server.http import closing, outgoing, protocol
from server.http.closing import ClosingProtocol
from server.http.protocol import GuardedProtocol

MODULES = (protocol, closing, outgoing)
CALLED_BY_UVICORN = {"_start_asgi_task", "on_response_complete", "timeout_keep_alive_handler"}


def attributes(*owners: str, of: type | None = None) -> set[str]:
    """Names that a class, or the protocol's modules, read or set on the given expressions."""
    trees = [ast.parse(inspect.getsource(part)) for part in ([of] if of else MODULES)]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return {node.attr for node in nodes if ast.unparse(node.value) in owners}


def absent(names: set[str], owner: object) -> str:
    """The names that the owner lacks, as a sentence; empty if it has all."""
    lacking = sorted(name for name in names if not hasattr(owner, name))
    where = f"uvicorn {version('uvicorn')}: {type(owner).__name__}"
    return f"{where} has no {lacking}; server/http/protocol.py uses it" if lacking else ""


async def answer(scope, receive, send) -> None:
    """An application that is never called."""


async def test_uvicorn_has_every_attribute_that_the_protocol_uses():
    config = uvicorn.Config(answer, log_config=None)
    loop = asyncio.get_running_loop()
    theirs, ours = (
        kind(config, ServerState(), {}, loop) for kind in (HttpToolsProtocol, GuardedProtocol)
    )
    parts = (GuardedProtocol, ClosingProtocol)
    used = set[str]().union(*(attributes("self", of=part) for part in parts))
    assert not (message := absent(used, ours)), message
    inherited = CALLED_BY_UVICORN.union(*(attributes("super()", of=part) for part in parts))
    assert not (message := absent(inherited, theirs)), message
    count = len(inspect.signature(RequestResponseCycle).parameters)
    cycle = RequestResponseCycle(*[None] * count)  # pyright: ignore[reportArgumentType]
    assert not (message := absent(attributes("cycle", "self.cycle"), cycle)), message


def test_an_absent_attribute_is_named():
    message = absent({"loop", "no_such_hook"}, asyncio.Protocol())
    assert "Protocol has no ['loop', 'no_such_hook']" in message
    assert "uvicorn" in message and "server/http/protocol.py" in message
