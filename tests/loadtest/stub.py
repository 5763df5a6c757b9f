"""A small real HTTP server with known delays, which logs what it really did.

It speaks the server's streams and holds nothing else. As a program it takes a port's file, a log's
file, and the second (since its first request) at which it stands still for a while:

    python -m tests.loadtest.stub PORT_FILE LOG_FILE [STALL_AT STALL_FOR] [--models]

Fields of a request's body say how it is answered: ``first_ms`` and ``rest_ms`` with ``spread_ms``
(times the seed modulo 16), ``how`` for failures. ``gap_ms`` makes it a left-to-right server, which
streams ``max_tokens`` tokens with that pause between them and knows nothing of diffusion. With
``--models`` it lists its model.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

CHUNK = {"id": "cmpl-0", "object": "text_completion", "created": 0, "model": "stub"}


def chunk(text: str, finish: str | None = None, **more: object) -> dict:
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
    return {**CHUNK, "choices": [choice], **more}


class Stub:
    """Answers, and writes down when."""

    def __init__(self, log: Path, stall: tuple[float, float] | None, listed: bool) -> None:
        self.log, self.stall = log.open("a", buffering=1), stall
        self.listed = listed
        self.began: float | None = None

    def note(self, **facts: object) -> None:
        self.log.write(json.dumps(facts) + "\n")

    def stand_still(self) -> None:
        """The whole server, as a long garbage collection or a frozen machine would."""
        assert self.stall is not None
        began = time.perf_counter()
        time.sleep(self.stall[1])
        self.note(stalled=[began, time.perf_counter()])

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                arrived = time.perf_counter()
                fields = dict(
                    line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:] if line
                )
                body = await reader.readexactly(int(fields.get("content-length", 0)))
                path = head.split()[1].decode()
                if path == "/v1/models" and self.listed:
                    await self.say(writer, 200, b'{"data": [{"id": "stub"}]}')
                    continue
                if path != "/v1/completions":
                    await self.say(writer, 404, b"{}")
                    continue
                await self.complete(writer, json.loads(body), fields["x-request-id"], arrived)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def say(self, writer: asyncio.StreamWriter, status: int, body: bytes) -> None:
        writer.write(b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\n" % status)
        writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()

    async def complete(self, writer, body: dict, name: str, arrived: float) -> None:
        if self.began is None:
            self.began = arrived
            if self.stall is not None:
                asyncio.get_running_loop().call_later(self.stall[0], self.stand_still)
        how = body.get("how", "well")
        if how == "full":
            error = {"error": {"code": "queue_full", "message": "later"}}
            self.note(id=name, arrived=arrived, ended=time.perf_counter())
            return await self.say(writer, 429, json.dumps(error).encode())
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
        writer.write(b"Transfer-Encoding: chunked\r\n\r\n")
        later = body.get("spread_ms", 0) * (body["seed"] % 16)
        await asyncio.sleep(body.get("first_ms", 0) / 1e3)
        first = self.write(writer, f"data: {json.dumps(chunk('Once'))}\r\n\r\n")
        if how == "hangs":
            await asyncio.sleep(60)
        if how == "breaks":
            writer.transport.abort()
            return self.note(id=name, arrived=arrived, first=first, ended=time.perf_counter())
        if how == "fails":
            self.write(writer, 'data: {"error": {"code": "not_finite", "message": "oh"}}\n\n')
        elif how == "babbles":
            self.write(writer, "data: {what\n\n")
        await asyncio.sleep((body.get("rest_ms", 0) + later) / 1e3)
        if how == "stops":
            self.write(writer, f"data: {json.dumps(chunk(' upon'))}\n\n")
        if (gap := body.get("gap_ms")) is not None:
            for _ in range(body["max_tokens"] - 1):
                await asyncio.sleep(gap / 1e3)
                self.write(writer, f"data: {json.dumps(chunk(' upon'))}\n\n")
            usage = {"completion_tokens": body["max_tokens"]}
            last = {**CHUNK, "choices": [], "usage": usage}
            self.write(writer, f"data: {json.dumps(last)}\n\ndata: [DONE]\n\n")
        elif how == "well":
            usage = {"completion_tokens": 2, "diffusion": {"queue_ms": 1.5, "denoise_ms": 20.0}}
            last = {**CHUNK, "choices": [], "usage": usage}
            events = [chunk(" upon"), chunk("", "length"), last]
            text = "".join(f"data: {json.dumps(event)}\r\n\r\n" for event in events)
            self.write(writer, text + "data: [DONE]\r\n\r\n")
        ended = time.perf_counter()
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        self.note(id=name, arrived=arrived, first=first, ended=ended)

    def write(self, writer: asyncio.StreamWriter, text: str) -> float:
        at = time.perf_counter()
        data = text.encode()
        writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        return at


async def main(port_file: Path, stub: Stub) -> None:
    server = await asyncio.start_server(stub.serve, "127.0.0.1", 0)
    port_file.write_text(str(server.sockets[0].getsockname()[1]))
    await server.serve_forever()


if __name__ == "__main__":
    times = [float(part) for part in sys.argv[3:] if part != "--models"]
    stall = (times[0], times[1]) if times else None
    asyncio.run(main(Path(sys.argv[1]), Stub(Path(sys.argv[2]), stall, "--models" in sys.argv)))
