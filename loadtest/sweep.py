"""Runs the cells of a plan against a server, one after the other, and stores their records."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from loadtest import server_probe
from loadtest.client import Clock, PreparedRequest, perform
from loadtest.errors import Refusal
from loadtest.loops import Traffic, watching
from loadtest.plan import ROUTES, Plan, Planned
from loadtest.records import Cell, CellSummary, Folder, Record

SHOW_EVERY = 0.5  # drawing more often would take CPU time from the client


def display(console: Console) -> Progress:
    """Progress bars; nothing is drawn if the console is not a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[state]}"),
        console=console,
        refresh_per_second=2,
        transient=True,
    )


class Stale(Refusal):
    """The folder holds a run of another plan or another server."""


def resume(folder: Folder, plan: Plan, environment: dict[str, Any]) -> str:
    """Begin a run in an empty folder, or resume it; returns the run's name, the prefix of its
    request ids.

    Raises:
        Stale: the folder's run has another plan or another server.
    """
    header = folder.header()
    if header is None:
        name = secrets.token_hex(4)
        header = {"run": name, "began": time.time(), "environment": environment}
        folder.begin({**header, "plan": plan.to_json()})
        return name
    if Plan.read(header["plan"]) != plan:
        raise Stale(f"{folder.path} holds a run of another plan; choose another --out")
    for field in ("server", "model", "checkpoint_sha256"):
        if header["environment"][field] != environment[field]:
            raise Stale(f"{folder.path} was begun on another server: its {field} differs")
    return header["run"]


async def run_cells(
    session: aiohttp.ClientSession,
    plan: Plan,
    run: str,
    folder: Folder,
    bars: Progress,
    until: float,
) -> int:
    """Run the unfinished cells; returns how many are left at ``until`` (monotonic time)."""
    todo = [cell for cell in plan.cells() if not folder.has(cell.name)]
    every = bars.add_task("all cells", total=len(todo), state="")
    for done, planned in enumerate(todo):
        if time.monotonic() > until:
            bars.remove_task(every)
            return len(todo) - done
        folder.keep(await run_cell(session, plan, run, planned, bars))
        bars.advance(every)
    bars.remove_task(every)
    return 0


async def run_cell(
    session: aiohttp.ClientSession, plan: Plan, run: str, planned: Planned, bars: Progress
) -> Cell:
    """Run one cell: the warm-up, the measured window, and the drain of requests still running."""
    load, workload = planned.load, plan.workload
    before = await server_probe.idle_counters(session)
    clock = Clock(time.perf_counter() + plan.warmup)

    async def send(number: int, at: float) -> Record:
        request = PreparedRequest(
            id=f"{run}-{planned.name}-{number}",
            path=ROUTES[workload.kind],
            body=workload.body(planned.setting, planned.repeat, number),
            number=number,
            prompt=workload.prompt(number),
            timeout=plan.timeout,
        )
        return await perform(session, request, clock, at)

    traffic = Traffic(send, clock)
    words = f"{planned.setting.label} steps {planned.setting.variant}, {load.words}"
    with showing(bars, words, plan, clock, traffic):
        async with watching() as strain:
            if load.loop == "closed":
                last = await traffic.closed(int(load.value), plan.duration, plan.max_requests)
            else:
                last = await traffic.open(plan.arrivals(load, planned.repeat))
            sent = len(traffic.records) + len(traffic.under_way)
            seconds = plan.duration if sent < plan.max_requests else max(last, 1e-3)
            await asyncio.sleep(max(0.0, seconds - clock.now()))
            await traffic.drain(plan.drain)
    after = await server_probe.idle_counters(session)
    grown = {name: count - before.get(name, 0) for name, count in after.items()}
    records = sorted(traffic.records, key=lambda r: r.number)
    summary = CellSummary(seconds, strain.lag_p99_ms, strain.cpu_share, grown)
    return Cell(planned.name, records, summary)


@contextmanager
def showing(
    bars: Progress, words: str, plan: Plan, clock: Clock, traffic: Traffic
) -> Iterator[None]:
    """Show a progress bar of the cell while the block runs."""
    bar = bars.add_task(words, total=plan.warmup + plan.duration, state="")

    async def follow() -> None:
        while True:
            done, failed = len(traffic.records), sum(bool(r.failure) for r in traffic.records)
            state = f"{done} done, {failed} failed, {len(traffic.under_way)} under way"
            bars.update(bar, completed=clock.now() + plan.warmup, state=state)
            await asyncio.sleep(SHOW_EVERY)

    task = asyncio.create_task(follow())
    try:
        yield
    finally:
        task.cancel()
        bars.remove_task(bar)
