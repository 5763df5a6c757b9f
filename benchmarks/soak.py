"""Resources and lost answers of a server while clients connect, disconnect and misbehave.

A real ``xdlm serve`` runs in a process of its own on loopback; each kind is bounded in time or
count.

    python -m benchmarks.soak mix --minutes 30 --save soak.jsonl      # drops, bad bodies, too much
    python -m benchmarks.soak cancels --count 2000 --save cancels.jsonl
    python -m benchmarks.soak drains --count 50 --save drains.jsonl
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from benchmarks.client import BODY, LONG, ask, canary, clean, collect, drop, quantile
from benchmarks.isolated import Record
from benchmarks.serving import Server, metrics, serving

CLIENTS = 8
SAMPLE_SECONDS = 5.0


@dataclass
class Counts:
    """Requests and answers that the clients of the mix counted."""

    sent: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    changed: int = 0


async def mix(server: Server, minutes: float, seed: int) -> AsyncIterator[Record]:
    """Clients in a closed loop: 5 % hang up, 2 % send an invalid body, 1 % ask for too much."""
    chance, counts = random.Random(seed), Counts()
    expected = await canary(server)
    before = await asyncio.to_thread(metrics, server)
    began = time.monotonic()
    end = began + 60 * minutes

    async def client() -> None:
        while time.monotonic() < end:
            kind = chance.choices(["drop", "bad", "large", "canary", "stream"], [5, 2, 1, 46, 46])[
                0
            ]
            counts.sent[kind] += 1
            body = {**BODY, "seed": chance.randrange(1000), "stream": kind == "stream"}
            if kind == "drop":
                await drop(server, {**LONG, "stream": chance.random() < 0.5}, chance.random() / 5)
                continue
            if kind == "bad":
                answer = await ask(server, b'{"prompt": "x", "prompt": NaN}')
            elif kind == "large":
                answer = await ask(server, {**BODY, "n": 10_000})
            elif kind == "canary":
                answer = await ask(server, BODY)
                if answer.status == 200:
                    choices = json.dumps(json.loads(answer.body)["choices"]).encode()
                    counts.changed += choices != expected
            else:
                answer = await ask(server, body)
            counts.statuses[f"{kind} {answer.status}"] += 1
            counts.lost += not answer.whole

    async def sample() -> AsyncIterator[Record]:
        while time.monotonic() < end:
            await asyncio.sleep(min(SAMPLE_SECONDS, max(0.0, end - time.monotonic())))
            yield {
                "at_s": round(time.monotonic() - began, 1),
                "requests": sum(counts.sent.values()),
                **server.resources(),
            }

    clients = [asyncio.create_task(client()) for _ in range(CLIENTS)]
    samples: list[Record] = []
    async for record in sample():
        samples.append(record)
        yield record
    await asyncio.gather(*clients)
    after = await asyncio.to_thread(metrics, server)
    grown = {
        name: after[name] - before.get(name, 0.0)
        for name in after
        if name.startswith("xdlm_request_failure_total") or name.startswith("xdlm_request_success")
    }
    warm = [s for s in samples if s["at_s"] > samples[-1]["at_s"] / 3]
    good = sum(n for name, n in counts.statuses.items() if name.endswith(" 200"))
    yield {
        "summary": "mix",
        "sent": dict(counts.sent),
        "statuses": dict(counts.statuses),
        "lost": counts.lost,
        "changed": counts.changed,
        "succeeded_by_client": good,
        "metrics": {name: n for name, n in grown.items() if n},
        "rss_mib_per_hour": round(slope([(s["at_s"], s["rss_mib"]) for s in warm]) * 3600, 3),
        "fds": [warm[0]["fds"], warm[-1]["fds"]],
        "threads": [warm[0]["threads"], warm[-1]["threads"]],
        **await clean(server, expected),
    }


def slope(points: list[tuple[float, float]]) -> float:
    """Slope of the least-squares line."""
    if len(points) < 2:
        return 0.0
    return statistics.linear_regression(*zip(*points, strict=True)).slope


async def cancels(server: Server, count: int, seed: int) -> AsyncIterator[Record]:
    """Disconnect at random times; measure the time until the gauges are 0 again, and of a step."""
    chance, expected, freed = random.Random(seed), await canary(server), []
    for i in range(count):
        body = {**LONG, "seed": i, "stream": i % 2 == 0, "n": chance.choice((1, 1, 1, 4))}
        await drop(server, body, 0.01 + 0.1 * chance.random())
        began = time.perf_counter()
        while (await asyncio.to_thread(metrics, server))["xdlm_requests_running"]:
            assert time.perf_counter() - began < 30, "a slot was not freed"
        freed.append(time.perf_counter() - began)
        if i % 100 == 99:
            yield {"cancels": i + 1, "freed_p99_s": round(quantile(freed, 0.99), 4)}
    found = await asyncio.to_thread(metrics, server)
    steps = found["xdlm_step_seconds_count"]
    yield {
        "summary": "cancels",
        "count": count,
        "freed_p50_s": round(quantile(freed, 0.5), 4),
        "freed_p99_s": round(quantile(freed, 0.99), 4),
        "freed_max_s": round(max(freed), 4),
        "mean_step_s": round(found["xdlm_step_seconds_sum"] / max(1, steps), 4),
        "note": "freed includes reading /metrics once or more",
        **await clean(server, expected),
    }


async def drains(count: int, checkpoint: str, in_flight: int = 24) -> AsyncIterator[Record]:
    """SIGTERM with streams in flight, some of which can end in time; each must end once."""
    total: Counter[str] = Counter()
    for trial in range(count):
        with serving(checkpoint, XDLM_SHUTDOWN_SECONDS="2") as server:
            await canary(server)
            bodies = [{**BODY, "steps": 20, "seed": i, "stream": True} for i in range(8)]
            bodies += [{**LONG, "seed": i, "stream": True} for i in range(in_flight - 8)]
            asked = [asyncio.create_task(ask(server, body)) for body in bodies]
            gauges = ("xdlm_requests_running", "xdlm_requests_waiting")
            for _ in range(200):
                found = await asyncio.to_thread(metrics, server)
                if sum(found[g] for g in gauges) >= in_flight - 8:
                    break
                await asyncio.sleep(0.01)
            began = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            answers = await asyncio.gather(*asked)
            code = await asyncio.to_thread(server.process.wait, 30)
            record = {
                "trial": trial,
                "in_flight": in_flight,
                "finished": sum(a.whole and not a.error for a in answers),
                "error_event": sum(a.whole and a.error for a in answers),
                "truncated": sum(not a.whole for a in answers),
                "exit_code": code,
                "seconds": round(time.monotonic() - began, 2),
            }
        total["truncated"] += record["truncated"]
        total["not 0"] += code != 0
        total["streams"] += in_flight
        yield record
    yield {"summary": "drains", "trials": count, **total}


def main() -> None:
    """Run one kind."""
    parser = argparse.ArgumentParser(
        description="Soak tests of a server whose clients connect and disconnect."
    )
    parser.add_argument("kind", choices=["mix", "cancels", "drains"])
    parser.add_argument("--checkpoint", default="stories")
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save", help="file name in benchmarks/results")
    args = parser.parse_args()
    if args.kind == "drains":
        asyncio.run(collect(drains(args.count, args.checkpoint), args.save))
        return
    with serving(args.checkpoint) as server:
        if args.kind == "mix":
            found = mix(server, args.minutes, args.seed)
        else:
            found = cancels(server, args.count, args.seed)
        asyncio.run(collect(found, args.save))


if __name__ == "__main__":
    main()
