"""``xdlm serve --tensor-parallel``: one model on two processes, as a client and an operator see
it.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.support.http import post
from tests.support.processes import serving, xdlm

ASKED = {"prompt": "Once upon a time", "max_tokens": 24, "steps": 6, "seed": 5, "temperature": 0}


def ranks_of(pid: int) -> list[int]:
    """Other ranks among a process's children: those that were spawned to follow."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(c) for c in children if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]


def test_two_ranks_answer_and_end_together(tiny_folder):
    with serving(str(tiny_folder)) as whole:
        status, alone = post(whole, **ASKED)
        assert status == 200
    with serving(str(tiny_folder), "--tensor-parallel", "2") as divided:
        assert post(divided, **ASKED)[1]["choices"] == alone["choices"]
        (other,) = ranks_of(divided.popen.pid)
        os.kill(other, signal.SIGKILL)
        assert divided.popen.wait(30) != 0
    assert "rank 1 of the model ended" in divided.stderr


def test_what_cannot_be_served_so_is_refused():
    for args, code, words in (
        (("stories", "--tensor-parallel", "5"), 1, "cannot be divided among 5 ranks"),
        (("digits", "--tensor-parallel", "2"), 1, "not dit"),
        (
            ("stories", "digits", "--tensor-parallel", "2"),
            2,
            "is only supported with one checkpoint",
        ),
    ):
        done = xdlm("serve", *args)
        assert done.returncode == code, done.stderr
        assert words in done.stderr and "Traceback" not in done.stderr
