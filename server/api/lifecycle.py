"""The HTTP server of an application, and its graceful shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

import structlog
import uvicorn
from fastapi import FastAPI

from server import logs
from server.engine import watchdog
from server.engine.engine import Engine
from server.http.protocol import GuardedProtocol

log = structlog.get_logger()

TICK = 0.05
FAREWELL = 5.0  # seconds for clients to read the last events
OVERDUE = 30.0
"""Seconds after ``shutdown_seconds`` after which the process is ended by force."""
IGNORED = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT)
"""Signals that are ignored; by default they would end the process."""
SPARE = 16  # file descriptors for other things than connections
FEWEST, MOST = 8, 4096  # connections


def affordable_connections() -> int:
    """The number of connections that the file descriptor limit allows."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return MOST
    used = len(os.listdir("/dev/fd"))
    return min(max(FEWEST, allowed - used - SPARE), MOST)


class LoopErrors:
    """Logs errors of the event loop, at most one line a second of each kind.

    Without file descriptors, asyncio reports each connection that it cannot accept.
    """

    def __init__(self) -> None:
        self._logged_until: dict[str, float] = {}

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """The event loop's exception handler."""
        kind = context["message"].partition("(")[0]
        if loop.time() >= self._logged_until.get(kind, 0.0):
            self._logged_until[kind] = loop.time() + 1
            log.error("event loop", what=kind, exc_info=context.get("exception"))


def ignore_stray_signals() -> None:
    """Ignore ``IGNORED`` from now on; child processes keep the default handling."""
    for number in IGNORED:
        signal.signal(number, lambda *_: None)


class Server(uvicorn.Server):
    """uvicorn, but the first SIGTERM, SIGINT or SIGHUP drains and a second SIGTERM or SIGINT ends
    at once.

    While it drains it listens: new work gets its 503, and health checks their answer. Requests
    under way go on for ``seconds``; what is left then ends with an error, streams with an error
    event. The process ends with code 0, after a second signal with 128 and the signal's number. One
    that cannot drain, since its event loop hangs, ends all the same, with code 70.
    """

    def __init__(
        self,
        app: FastAPI,
        engines: Sequence[Engine],
        seconds: float,
        http: type[GuardedProtocol] = GuardedProtocol,
        keep_alive: int = 5,
        connections: int = 0,
    ) -> None:
        """``engines`` are those of the application; ``http`` speaks with its clients, on up to so
        many ``connections``, and closes those that ask nothing for ``keep_alive`` seconds.
        """
        config = uvicorn.Config(
            app,
            port=0,  # where no socket is given
            http=http,
            ws="none",
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nothing depends on a client's address or scheme
            limit_concurrency=connections or affordable_connections(),
            timeout_keep_alive=keep_alive,
            timeout_graceful_shutdown=int(FAREWELL),
            # uvicorn takes these from variables of its own where they are not given
            workers=1,
            forwarded_allow_ips="127.0.0.1,::1",
        )
        super().__init__(config)
        self._engines, self._seconds = engines, seconds
        self._drain: asyncio.Task[None] | None = None
        self._signalled = False
        self._draining = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """See uvicorn; a SIGHUP that is ignored, as under nohup, stays so."""
        here = threading.current_thread() is threading.main_thread()
        hangup = signal.getsignal(signal.SIGHUP)
        if here and hangup is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self.handle_exit)
        try:
            with super().capture_signals():
                yield
        finally:
            if here:
                signal.signal(signal.SIGHUP, hangup)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Signal handler. It takes no lock that the code it interrupts may hold, which may be this
        handler: draining begins in the event loop.
        """
        if not self._signalled:
            self._signalled = True  # the event's own lock is held while it is set
            self._draining.set()
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._begin)
        elif sig != signal.SIGHUP:  # which a terminal that closes sends twice
            log.warning("second signal", signal=signal.Signals(sig).name)
            logs.settle()
            os._exit(128 + sig)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn; errors of the event loop become log lines of ours."""
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(LoopErrors())
        threading.Thread(target=self._end_overdue, name="xdlm-end", daemon=True).start()
        await super().startup(sockets)
        if self._draining.is_set():
            self._begin()

    def _begin(self) -> None:
        if self._drain is None:
            self._drain = asyncio.create_task(self.drain())

    def _end_overdue(self) -> None:
        """On a thread of its own: a drain that does not come to its end is cut off."""
        self._draining.wait()
        time.sleep(self._seconds + OVERDUE)
        watchdog.give_up("the process should have ended")

    async def drain(self) -> None:
        """Wait for what is under way, end what is left, and have the server end."""
        for engine in self._engines:
            engine.drain()
        log.info("draining", seconds=self._seconds)
        await self._until_idle(self._seconds)
        left = sum(e.scheduler.running + e.scheduler.waiting for e in self._engines)
        await asyncio.gather(*(asyncio.to_thread(engine.stop) for engine in self._engines))
        await self._until_idle(FAREWELL)
        log.info("drained", cut_short=left)
        self.should_exit = True

    async def _until_idle(self, seconds: float) -> None:
        """Wait until no answer is under way, for so long at most."""
        end = time.monotonic() + seconds
        while self.server_state.tasks and time.monotonic() < end:
            await asyncio.sleep(TICK)
