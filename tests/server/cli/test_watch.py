"""``xdlm generate --watch`` on a terminal: keys pause and step, a window follows the work."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import select
import subprocess
import time

from server.cli.keys import Keys
from tests.support.fork_server import ForkedPopen
from tests.support.processes import XDLM

COMMAND = [
    *(XDLM, "generate", "Once upon a time", "--max-tokens", "200", "--steps", "12"),
    *("--seed", "1", "--watch", "--delay", "0.05"),
]


def test_a_key_pauses_steps_and_goes_on():
    async def turns() -> list[bool]:
        keys, passed = Keys(0.01), []

        async def passes(seconds: float) -> bool:
            try:
                await asyncio.wait_for(keys.turn(), seconds)
            except TimeoutError:
                return False
            return True

        passed.append(await passes(2))  # it plays
        keys.press(b" ")
        passed.append(await passes(0.2))  # it is paused
        keys.press(b"\x1b[C")
        passed.append(await passes(2))  # one step
        passed.append(await passes(0.2))
        keys.press(b" ")
        passed.append(await passes(2))  # it plays again
        return passed

    assert asyncio.run(turns()) == [True, False, True, False, True]


def test_a_small_terminal_shows_a_window_a_bar_and_a_legend_and_is_given_back():
    outer, inner = pty.openpty()
    env = {**os.environ, "LINES": "14", "COLUMNS": "60", "TERM": "xterm"}
    popen = ForkedPopen(COMMAND, stdin=inner, stdout=inner, stderr=subprocess.DEVNULL, env=env)
    os.close(inner)
    told, deadline = b"", time.monotonic() + 90
    paused = False
    while time.monotonic() < deadline:
        if not select.select([outer], [], [], 1)[0]:
            if popen.poll() is not None:
                break
            continue
        try:
            more = os.read(outer, 65536)
        except OSError:  # the other side is closed
            break
        if not more:
            break
        told += more
        if not paused and b"step   1/12" in told:
            os.write(outer, b"q")  # to the end
            paused = True
    assert popen.wait(timeout=60) == 0
    os.close(outer)
    shown = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", told).decode(errors="replace")
    assert "step  12/12" in shown and "━" in shown
    assert "▒▒ masked again" in shown and "space pauses" in shown
    frames = shown.split("step ")
    assert max(frame.count("\n") for frame in frames) <= 14
