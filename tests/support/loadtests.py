"""The recorded load test of the bundled checkpoint, described in docs/loadtest.md."""

from __future__ import annotations

import tarfile
from pathlib import Path

from tests.support.paths import ROOT


def extract_stories(folder: Path) -> Path:
    """Unpack the run into ``folder / "stories"``: five step counts, three loads, three repeats."""
    target = folder / "stories"
    with tarfile.open(ROOT / "benchmarks" / "results" / "loadtest-stories.tar.gz") as archive:
        archive.extractall(target, filter="data")
    return target
