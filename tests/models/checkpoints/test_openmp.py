"""Threads of OpenMP: how many there are, and how they wait."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

COUNT = """
import os
import torch
from models.checkpoints.openmp import end_idle_threads
torch.set_num_threads(3)
threads = lambda: len(os.listdir("/proc/self/task"))
before = threads()
a = torch.ones(512, 512)
a @ a
computing = threads()
done = end_idle_threads()
after = threads()
(a @ a).sum()
print(before, computing, done, after, threads())
"""


def output(code: str, **variables: str) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_idle_threads_end_and_come_back_with_work():
    before, computing, done, after, again = output(COUNT).split()
    assert int(computing) == int(before) + 2 and done == "True"
    assert after == before and again == computing


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variables", "spins"),
    [({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "passive"}, "None")],
)
def test_command_leaves_how_long_threads_spin_to_the_user(variables, spins):
    code = "import server.cli, os; print(os.environ.get('GOMP_SPINCOUNT'))"
    assert output(code, **variables) == spins


@pytest.mark.slow
def test_command_sets_it_before_torch_is_loaded():
    """libgomp reads the variable once, when it is loaded."""
    code = (
        "import sys, os\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch':\n"
        "            print(os.environ.get('GOMP_SPINCOUNT'))\n"
        "sys.meta_path.insert(0, Finder())\n"
        "import server.cli.app\n"
    )
    assert output(code) == "10000"
