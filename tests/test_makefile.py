"""The Python that ``make`` takes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT


def chosen(folder: Path, pythons: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """The value of ``PYTHON`` where these commands alone are there."""
    make, shell = shutil.which("make"), shutil.which("sh")
    assert make is not None and shell is not None
    folder.mkdir()
    (folder / "sh").symlink_to(shell)
    for name, script in pythons.items():
        (folder / name).write_text(f"#!{shell}\n{script}\n")
        (folder / name).chmod(0o755)
    show = ["-f", ROOT / "Makefile", "--eval", "show:;@echo $(PYTHON);:", "show"]
    return subprocess.run(
        [make, *show], cwd=folder, env={"PATH": str(folder)}, capture_output=True, text=True
    )


@pytest.mark.parametrize("name", ["python3.11", "python3.13", "python3"])
def test_make_takes_a_python_that_runs_and_is_new_enough(tmp_path, name):
    """Older ones, and shims that lead nowhere, are passed over."""
    pythons = dict.fromkeys(["python3.11", "python3.12", "python3", "python"], "exit 1")
    pythons[name] = f'exec "{sys.executable}" "$@"'
    done = chosen(tmp_path / "bin", pythons)
    assert done.stdout == f"{name}\n", done.stderr


def test_make_without_a_python_says_which_it_needs(tmp_path):
    done = chosen(tmp_path / "bin", {"python3": "exit 1"})
    assert done.returncode and "Python 3.11 or later is needed" in done.stderr
