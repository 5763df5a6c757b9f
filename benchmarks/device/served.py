"""Section 12: a real server, a closed loop of clients, trajectory readers on half of them."""

from __future__ import annotations

import asyncio
import json
import time

from benchmarks.client import ask, quantile
from benchmarks.device.networks import Bench
from benchmarks.serving import Server, metrics, serving


def served(bench: Bench) -> None:
    """``stories`` in the device's own dtype: tokens a second, p95, and the engine's share."""
    clients, requests = (4, 8) if bench.small else (32, 200)
    with serving("stories", XDLM_DEVICE=bench.device) as server:
        asyncio.run(_loop(server, clients, clients, bench.small))  # warms up
        before = metrics(server)
        began = time.monotonic()
        taken, whole, tokens = asyncio.run(_loop(server, clients, requests, bench.small))
        wall = time.monotonic() - began
        after = metrics(server)
    engine = after["xdlm_step_seconds_sum"] - before["xdlm_step_seconds_sum"]
    note = f"{tokens / wall:.0f} tokens/s, p95 {quantile(taken, 0.95):.3f} s, "
    note += f"{100 * engine / wall:.0f} % of the time in steps, {whole} of {requests} whole"
    case = f"stories, {clients} clients"
    bench.report.add(case, "served", seconds=taken, ok=whole == requests, note=note)


async def _loop(
    server: Server, clients: int, requests: int, small: bool
) -> tuple[list[float], int, int]:
    """Seconds of each request, the answers that are whole, and tokens asked for."""
    length, steps = (16, 4) if small else (64, 16)
    seeds = iter(range(requests))
    taken: list[float] = []
    whole = 0

    async def client(reads: bool) -> None:
        nonlocal whole
        for seed in seeds:
            body = {
                "prompt": "Once upon a time",
                "max_tokens": length,
                "steps": steps,
                "seed": seed,
            }
            if reads:
                body |= {"stream": True, "trajectory": "delta"}
            answer = await ask(server, body)
            taken.append(answer.seconds)
            ended = b"[DONE]" in answer.body if reads else bool(json.loads(answer.body)["choices"])
            whole += answer.status == 200 and answer.whole and not answer.error and ended

    await asyncio.gather(*(client(i % 2 == 0) for i in range(clients)))
    return taken, whole, requests * length
