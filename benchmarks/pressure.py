"""Latency for clients of a server that is abused, overloaded or busy with long requests.

A real ``xdlm serve`` runs in a process of its own on loopback; each kind is bounded in time or
count.

    python -m benchmarks.pressure abuse --seconds 60 --save abuse.jsonl       # 200 + 64 connections
    python -m benchmarks.pressure overload --minutes 5 --save overload.jsonl  # 1.5 times the peak
    python -m benchmarks.pressure short --count 60 --save short.jsonl         # beside long requests
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress

from benchmarks.client import (
    BODY,
    LONG,
    Answer,
    ask,
    canary,
    clean,
    collect,
    connected,
    quantile,
)
from benchmarks.isolated import Record
from benchmarks.serving import Server, serving

CLIENTS = 16


async def abuse(server: Server, seconds: float, slow: int, readers: int) -> AsyncIterator[Record]:
    """Connections that trickle their headers, and unread streams, beside a fixed request."""
    expected = await canary(server)

    async def canaries(for_seconds: float) -> list[float]:
        found, end = [], time.monotonic() + for_seconds
        while time.monotonic() < end:
            answer = await ask(server, BODY)
            assert answer.status == 200
            found.append(answer.seconds)
        return found

    idle = await canaries(seconds / 2)
    closed: Counter[str] = Counter()

    async def trickle() -> None:
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            try:
                for byte in b"POST /v1/completions HTTP/1.1\r\nX-Slow: " + b"a" * 1000:
                    writer.write(bytes([byte]))
                    await asyncio.sleep(1)
                    if reader.at_eof() or writer.is_closing():
                        break
            except OSError:
                pass
            finally:
                closed["slowloris"] += 1
                writer.close()

    async def lazy(i: int) -> None:
        body = {**LONG, "seed": i, "stream": True, "diffusing": True}
        async with connected(server, body, limit=64) as (reader, writer):
            with suppress(OSError):
                while not writer.is_closing() and await reader.read(1):
                    await asyncio.sleep(1)
            closed["slow reader"] += 1

    tasks = [asyncio.create_task(trickle()) for _ in range(slow)]
    tasks += [asyncio.create_task(lazy(i)) for i in range(readers)]
    await asyncio.sleep(1)
    under = await canaries(seconds)
    held = server.resources()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    yield {
        "summary": "abuse",
        "slowloris": slow,
        "slow_readers": readers,
        "canary_idle_p95_s": round(quantile(idle, 0.95), 4),
        "canary_under_p95_s": round(quantile(under, 0.95), 4),
        "ratio": round(quantile(under, 0.95) / quantile(idle, 0.95), 2),
        "closed": dict(closed),
        **held,
        **await clean(server, expected),
    }


async def overload(server: Server, minutes: float, seed: int) -> AsyncIterator[Record]:
    """The peak of a closed loop; then 1.5 times as many a second, whether they are answered or
    not.
    """
    chance, expected = random.Random(seed), await canary(server)

    async def closed_loop(seconds: float) -> float:
        done, end = 0, time.monotonic() + seconds

        async def client() -> None:
            nonlocal done
            while time.monotonic() < end:
                answer = await ask(server, {**BODY, "seed": chance.randrange(1000)})
                done += answer.status == 200

        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        return done / seconds

    peak = await closed_loop(min(30.0, 30 * minutes))
    yield {"peak_per_s": round(peak, 2)}
    answers: list[Answer] = []

    async def one() -> None:
        answers.append(await ask(server, {**BODY, "seed": chance.randrange(1000)}))

    began = due = time.monotonic()
    tasks: set[asyncio.Task[None]] = set()
    while due < began + 60 * minutes:
        due += chance.expovariate(1.5 * peak)
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        tasks.add(task := asyncio.create_task(one()))
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    took = time.monotonic() - began
    good = [a for a in answers if a.status == 200 and a.whole]
    yield {
        "summary": "overload",
        "offered_per_s": round(len(answers) / took, 2),
        "goodput_per_s": round(len(good) / took, 2),
        "goodput_of_peak": round(len(good) / took / peak, 3),
        "statuses": dict(Counter(a.status for a in answers)),
        "accepted_p50_s": round(quantile([a.seconds for a in good], 0.5), 3),
        "accepted_p99_s": round(quantile([a.seconds for a in good], 0.99), 3),
        "refused_p99_s": round(quantile([a.seconds for a in answers if a.status == 429], 0.99), 4),
        "retry_after": sorted({a.retry_after for a in answers if a.retry_after is not None}),
        **await clean(server, expected),
    }


async def short(server: Server, count: int) -> AsyncIterator[Record]:
    """Two different short requests, alone and while long ones take all that the engine has."""
    expected = await canary(server)
    kinds = {
        "ancestral": {**BODY, "max_tokens": 48, "steps": 16},
        "topk": {**BODY, "max_tokens": 32, "steps": 8, "sampler": "topk", "mixing_ratio": 0.0},
    }

    async def times() -> dict[str, list[float]]:
        found: dict[str, list[float]] = {kind: [] for kind in kinds}
        for i in range(count):
            for kind, body in kinds.items():
                answer = await ask(server, {**body, "seed": i})
                assert answer.status == 200
                found[kind].append(answer.seconds)
        return found

    alone = await times()
    long = [asyncio.create_task(ask(server, {**LONG, "seed": i})) for i in range(4)]
    await asyncio.sleep(1)
    beside = await times()
    for task in long:
        task.cancel()
    await asyncio.gather(*long, return_exceptions=True)
    yield {
        "summary": "short",
        "long_ones": len(long),
        **{
            kind: {
                "alone_p95_s": round(quantile(alone[kind], 0.95), 4),
                "beside_p95_s": round(quantile(beside[kind], 0.95), 4),
                "ratio": round(quantile(beside[kind], 0.95) / quantile(alone[kind], 0.95), 2),
            }
            for kind in kinds
        },
        **await clean(server, expected),
    }


def main() -> None:
    """Run one kind."""
    parser = argparse.ArgumentParser(description="What clients feel under pressure.")
    parser.add_argument("kind", choices=["abuse", "overload", "short"])
    parser.add_argument("--checkpoint", default="stories")
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--slowloris", type=int, default=200)
    parser.add_argument("--readers", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save", help="file name in benchmarks/results")
    args = parser.parse_args()
    with serving(args.checkpoint) as server:
        if args.kind == "abuse":
            found = abuse(server, args.seconds, args.slowloris, args.readers)
        elif args.kind == "overload":
            found = overload(server, args.minutes, args.seed)
        else:
            found = short(server, args.count)
        asyncio.run(collect(found, args.save))


if __name__ == "__main__":
    main()
