"""Seconds from the start of ``xdlm serve stories`` to the first 200 of ``/ready``.

Each run is a process of its own, with bytecode that an earlier run has written and files that the
system has in memory. With ``--beside`` the command of another checkout runs in turn.

    python -m benchmarks.startup --runs 9 --save startup.jsonl
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

from benchmarks.isolated import Record, save
from tests.support.memory import rss

XDLM = Path(sys.executable).parent / "xdlm"
DEADLINE = 120.0


def once(xdlm: Path) -> Record:
    """One start: seconds to its address on stdout, and to 200; CPU seconds of all of it, and
    anonymous memory once it is ready.
    """
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONDONTWRITEBYTECODE",)}
    used = os.times()
    began = time.monotonic()
    with subprocess.Popen(
        [xdlm, "serve", "stories", "--port", "0"],
        cwd=xdlm.parents[2],
        env=kept,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        url = next(found[0] for line in lines if (found := re.search(r"http://[\d.]+:\d+", line)))
        listening = time.monotonic() - began
        while time.monotonic() < began + DEADLINE:
            with suppress(OSError), urllib.request.urlopen(f"{url}/ready", timeout=5) as answer:
                if answer.status == 200:
                    break
            time.sleep(0.002)
        ready = time.monotonic() - began
        memory = rss(process.pid)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    now = os.times()
    cpu = now.children_user + now.children_system - used.children_user - used.children_system
    return {
        "listening_s": round(listening, 3),
        "ready_s": round(ready, 3),
        "cpu_s": round(cpu, 2),
        "anonymous_mb": round(memory / 1e6),
        "load": os.getloadavg()[0],
    }


def main() -> None:
    """Runs of all sides in turn; the first of each is not counted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--beside", type=Path, help="xdlm of another checkout's .venv/bin")
    parser.add_argument("--save", help="name of a file in benchmarks/results")
    args = parser.parse_args()
    sides = {"here": XDLM} | ({"beside": args.beside} if args.beside else {})
    records: list[Record] = []
    for run in range(args.runs + 1):
        for side, xdlm in sides.items():
            record = {"side": side, **once(xdlm)}
            if run:
                records.append(record)
                print(json.dumps(record), flush=True)
    for side in sides:
        times = [record["ready_s"] for record in records if record["side"] == side]
        quartiles = statistics.quantiles(times, n=4) if len(times) > 1 else times
        words = " ".join(f"{each:.2f}" for each in quartiles)
        print(f"{side}: quartiles {words} s, least {min(times):.2f} s")
    if args.save:
        save(args.save, records)


if __name__ == "__main__":
    main()
