"""Runs a plan against a server, cell after cell, and keeps what came of it."""

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
from loadtest.client import Ask, Clock, perform
from loadtest.errors import Refusal
from loadtest.loops import Traffic, watching
from loadtest.plan import ROUTES, Plan, Planned
from loadtest.records import Cell, CellSummary, Folder, Record

SHOW_EVERY = 0.5  # drawing more often costs the client time that it needs


def display(console: Console) -> Progress:
    """The bars; nothing is drawn where the console is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[told]}"),
        console=console,
        refresh_per_second=2,
        transient=True,
    )


class Stale(Refusal):
    """A folder holds a run of another plan or another server."""


def resume(folder: Folder, plan: Plan, environment: dict[str, Any]) -> str:
    """Begin a run in an empty folder, or go on with the same one; returns the run's name, with
    which the ids of its requests begin.

    Raises:
        Stale: the folder has another plan, or the server is another.
    """
    header = folder.header()
    if header is None:
        name = secrets.token_hex(4)
        header = {"run": name, "began": time.time(), "environment": environment}
        folder.begin({**header, "plan": plan.told()})
        return name
    if Plan.read(header["plan"]) != plan:
        raise Stale(f"{folder.path} holds a run of another plan; choose another --out")
    for what in ("server", "model", "checkpoint_sha256"):
        if header["environment"][what] != environment[what]:
            raise Stale(f"{folder.path} was begun on another server: its {what} differs")
    return header["run"]


async def run_cells(
    session: aiohttp.ClientSession,
    plan: Plan,
    run: str,
    folder: Folder,
    bars: Progress,
    until: float,
) -> int:
    """Run what is not finished; returns how many cells are left when the time (monotonic) is up."""
    todo = [cell for cell in plan.cells() if not folder.has(cell.name)]
    every = bars.add_task("all cells", total=len(todo), told="")
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
    """One cell: the warm-up, the measured window, and what was still under way behind it."""
    load, workload = planned.load, plan.workload
    before = await server_probe.idle_counters(session)
    clock = Clock(time.perf_counter() + plan.warmup)

    async def send(number: int, at: float) -> Record:
        ask = Ask(
            id=f"{run}-{planned.name}-{number}",
            path=ROUTES[workload.kind],
            body=workload.body(planned.setting, planned.repeat, number),
            number=number,
            prompt=workload.prompt(number),
            timeout=plan.timeout,
        )
        return await perform(session, ask, clock, at)

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
    """A bar for the cell while the block runs."""
    bar = bars.add_task(words, total=plan.warmup + plan.duration, told="")

    async def follow() -> None:
        while True:
            done, failed = len(traffic.records), sum(bool(r.failure) for r in traffic.records)
            told = f"{done} done, {failed} failed, {len(traffic.under_way)} under way"
            bars.update(bar, completed=clock.now() + plan.warmup, told=told)
            await asyncio.sleep(SHOW_EVERY)

    task = asyncio.create_task(follow())
    try:
        yield
    finally:
        task.cancel()
        bars.remove_task(bar)
