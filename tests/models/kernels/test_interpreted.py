"""Runs ``interpreted.py``."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support import interpreter


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_kernels_in_the_interpreter():
    interpreter.passes(Path(__file__).parent / "interpreted.py")
