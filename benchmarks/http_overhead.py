"""Overhead of HTTP over the engine: latency of one request, and throughput of a full engine.

The same seeded requests of the bundled checkpoint, given to an engine in the measuring process and
to ``xdlm serve`` in another one, over loopback; each side's network runs on one thread. Latency is
measured in pairs, a request on each side in turn; each side counts its duration less the time that
the engine reports, which varies by more than the overhead. Throughput is
that of a closed loop of as many requests as run together, on each side in turn.

    python -m benchmarks.http_overhead --save http_overhead.jsonl
    python -m benchmarks.http_overhead --pairs 10 --repeats 1        # a short look
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import torch

from benchmarks.isolated import Record, save
from models.checkpoints.load import find_checkpoint, load_checkpoint
from models.checkpoints.malloc import keep_freed_memory
from server.config import Settings
from server.engine.events import Done, GenerationRequest
from server.engine.factory import engine_of
from server.engine.request_params import sampling_params
from server.output.text import text_of

PROMPT, POSITIONS, STEPS, WARM = "Once upon a time", 64, 16, 5
SETTINGS = Settings.model_validate({"threads": 1, "port": 0})


class InProcess:
    """The engine, as the server builds it, without the server."""

    def __init__(self) -> None:
        keep_freed_memory()
        torch.set_num_threads(SETTINGS.threads)
        self.loaded = load_checkpoint(find_checkpoint("stories"))
        self.engine = engine_of(self.loaded, SETTINGS)
        self.prompt = self.loaded.tokenizer.encode(PROMPT)

    async def text(self, seed: int) -> tuple[str, float]:
        """One request, from submission to its end: its text, and the engine's own milliseconds."""
        params = sampling_params(self.loaded.defaults, {"steps": STEPS, "seed": seed})
        request = GenerationRequest.continuing(self.prompt, POSITIONS, params)
        async for event in self.engine.submit(request):
            if isinstance(event, Done):
                text = text_of(self.loaded, event.tokens, request.editable).text
                return text, event.tally.queue_ms + event.tally.denoise_ms
        raise RuntimeError("the request failed")


def body_of(seed: int) -> bytes:
    """The same request over HTTP."""
    body = {"prompt": PROMPT, "max_tokens": POSITIONS, "steps": STEPS, "seed": seed}
    return json.dumps(body).encode()


@contextmanager
def serving() -> Iterator[int]:
    """The port of ``xdlm serve`` in a process of its own."""
    command = [sys.executable, "-m", "server", "serve", "stories", "--port", "0"]
    command += ["--threads", str(SETTINGS.threads)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, **pipes) as server:
        try:
            assert server.stdout is not None
            for line in server.stdout:
                if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                    yield int(found.group(1))
                    return
            raise RuntimeError("the server did not start")
        finally:
            server.terminate()


async def latency(pairs: int, port: int) -> list[Record]:
    """Seconds of each pair's two sides; they take turns at being first, and say the same."""
    ours = InProcess()
    ours.engine.start()
    connection = http.client.HTTPConnection("127.0.0.1", port)

    def over_http(seed: int) -> tuple[str, float]:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/completions", body_of(seed), headers)
        answer = json.loads(connection.getresponse().read())
        spent = answer["usage"]["diffusion"]
        return answer["choices"][0]["text"], spent["queue_ms"] + spent["denoise_ms"]

    records: list[Record] = []
    for seed in range(pairs + WARM):
        spent: dict[str, float] = {}
        texts = set()
        for side in ("engine", "http") if seed % 2 else ("http", "engine"):
            began = time.perf_counter()
            text, engine_ms = await ours.text(seed) if side == "engine" else over_http(seed)
            spent[f"{side}_s"] = time.perf_counter() - began
            spent[f"{side}_beside_s"] = spent[f"{side}_s"] - engine_ms / 1e3
            texts.add(text)
        if len(texts) > 1:
            raise RuntimeError("the two sides wrote different texts")
        if seed >= WARM:
            records.append({"kind": "latency", "pair": seed, **spent, "load": os.getloadavg()[0]})
    connection.close()
    ours.engine.stop()
    return records


async def saturated(requests: int, ask: Callable[[int], Awaitable[object]]) -> float:
    """Seconds of a closed loop of ``max_running`` askers."""
    seeds = iter(range(requests))

    async def asker() -> None:
        for seed in seeds:
            await ask(seed)

    began = time.perf_counter()
    await asyncio.gather(*(asker() for _ in range(SETTINGS.max_running)))
    return time.perf_counter() - began


class Connections:
    """Asks the server over connections that stay open."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def text(self, seed: int) -> None:
        """One request, to the last byte of its answer."""
        if self.idle:
            reader, writer = self.idle.pop()
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        body = body_of(seed)
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", answer, re.IGNORECASE)
        if b" 200 " not in answer.split(b"\r\n")[0] or length is None:
            raise RuntimeError(f"the server answered {answer!r}")
        await reader.readexactly(int(length.group(1)))
        self.idle.append((reader, writer))

    def close(self) -> None:
        """Close all connections."""
        while self.idle:
            self.idle.pop()[1].close()


async def throughput(requests: int, repeats: int, port: int) -> list[Record]:
    """Seconds of each side's closed loop; they take turns, and at being first too."""
    ours, server = InProcess(), Connections(port)
    ours.engine.start()
    sides = {"engine": ours.text, "http": server.text}
    records: list[Record] = []
    for repeat in range(-1, repeats):
        for side in ("engine", "http") if repeat % 2 else ("http", "engine"):
            spent = await saturated(requests if repeat >= 0 else SETTINGS.max_running, sides[side])
            server.close()  # the server would, after some seconds of silence
            record = {"kind": "throughput", "side": side, "requests": requests, "wall_s": spent}
            record |= {"concurrency": SETTINGS.max_running, "load": os.getloadavg()[0]}
            if repeat >= 0:  # the one before warms up
                records.append({**record, "repeat": repeat})
                print(records[-1], flush=True)
    ours.engine.stop()
    return records


def report(pairs: list[Record], runs: list[Record]) -> None:
    """Medians."""
    if pairs:
        added = [1e3 * (r["http_beside_s"] - r["engine_beside_s"]) for r in pairs]
        cuts = statistics.quantiles(added, n=4)
        alone = 1e3 * statistics.median(r["engine_s"] for r in pairs)
        print(
            f"latency: HTTP adds {cuts[1]:.2f} ms (quartiles {cuts[0]:.2f}, {cuts[2]:.2f}) to "
            f"{alone:.1f} ms, {len(pairs)} pairs"
        )
    if runs:
        by_side = {
            side: [r["wall_s"] for r in runs if r["side"] == side] for side in ("engine", "http")
        }
        shares = [e / h for e, h in zip(by_side["engine"], by_side["http"], strict=True)]
        print(
            f"throughput: {100 * statistics.median(shares):.1f} % of the engine's "
            f"({min(shares):.3f} to {max(shares):.3f}, {len(shares)} pairs of runs)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--save", help="name of a file in benchmarks/results")
    args = parser.parse_args()
    with serving() as port:
        pairs = asyncio.run(latency(args.pairs, port)) if args.pairs else []
        runs = asyncio.run(throughput(args.requests, args.repeats, port)) if args.repeats else []
    report(pairs, runs)
    if args.save:
        save(args.save, [*pairs, *runs])


if __name__ == "__main__":
    main()
