"""All measurements on a device, within a budget of minutes, in the order of their importance.

    python -m benchmarks.device --minutes 9 --out device.jsonl        # on a GPU
    python -m benchmarks.device --minutes 3 --only 4,9 --out again.jsonl
    python -m benchmarks.device --device cpu --small --out small.jsonl  # small shapes, 50 s

Each section has a time box and verifies before it times. Each record is a line of JSON, written as
soon as it is there; the last lines printed are a table of results beside what was predicted.
"""

from __future__ import annotations

import argparse
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.device.bits import bits
from benchmarks.device.card import card, kernels
from benchmarks.device.decoding import caches, eight_canvases, many_canvases, one_canvas, posterior
from benchmarks.device.goldens import goldens
from benchmarks.device.networks import Bench
from benchmarks.device.report import Report
from benchmarks.device.served import served
from benchmarks.device.steps import churn, profiles
from benchmarks.device.tokens import tokens
from models.checkpoints.devices import device_named


class Section(NamedTuple):
    """A part of the run with its time box in seconds."""

    name: str
    seconds: int
    run: Callable[[Bench], None]


SECTIONS = {
    0: Section("card", 15, card),
    1: Section("kernels", 30, kernels),
    2: Section("tokens", 45, tokens),
    3: Section("goldens", 40, goldens),
    4: Section("one canvas", 45, one_canvas),
    5: Section("eight canvases", 60, eight_canvases),
    6: Section("32 canvases", 30, many_canvases),
    7: Section("caches", 50, caches),
    8: Section("posterior", 45, posterior),
    9: Section("profiles", 50, profiles),
    10: Section("churn", 20, churn),
    11: Section("bits", 25, bits),
    12: Section("server", 60, served),
}


def run(bench: Bench, only: list[int]) -> None:
    """Run sections while there is time; an error ends its section alone."""
    for number in only:
        section = SECTIONS[number]
        bench.report.begin(number, section.seconds)
        if not bench.report.has_time:
            bench.report.skip(section.name)
            continue
        began = time.monotonic()
        try:
            with torch.inference_mode():
                section.run(bench)
        except Exception as error:  # the other sections' figures are worth having
            traceback.print_exc()
            said = (str(error).splitlines() or [""])[0][:200]
            bench.report.add(section.name, ok=False, note=f"{type(error).__name__}: {said}")
        bench.free()
        print(f"-- section {number}: {time.monotonic() - began:.1f} s", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit status is 1 where a record is not ok."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="budget of the whole run")
    parser.add_argument("--out", type=Path, default=Path("device.jsonl"), help="file of records")
    parser.add_argument("--only", help="numbers of sections, as 4,9")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--small", action="store_true", help="small shapes, one run each")
    args = parser.parse_args(arguments)
    only = [int(n) for n in args.only.split(",")] if args.only else list(SECTIONS)
    if unknown := set(only) - SECTIONS.keys():
        parser.error(f"--only has {sorted(unknown)}; sections are 0 to {max(SECTIONS)}")
    device_named(args.device)
    name = "cpu" if args.device == "cpu" else torch.cuda.get_device_name()
    deadline = time.monotonic() + 60 * args.minutes
    with args.out.open("a") as file:
        report = Report(file, name, deadline)
        run(Bench(args.device, args.small, report), only)
    print(*report.table(), sep="\n")
    return int(any(not record["ok"] for record in report.records))


if __name__ == "__main__":
    raise SystemExit(main())
