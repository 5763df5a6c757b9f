"""Locust runs locustfile.py, headless and with workers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.loadtest.conftest import Server, Stubbed
from tests.support.paths import ROOT

LOCUST = Path(sys.executable).parent / "locust"
ROUTES = (
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/diffusion/trajectories",
    "/v1/images/generations",
)


def locust(url: str, folder: Path, *args: str, code: int = 0) -> dict[str, dict]:
    """Statistics that locust printed, by name."""
    command = [
        LOCUST,
        "-f",
        ROOT / "loadtest" / "locustfile.py",
        "--host",
        url,
        "--headless",
        "--json",
    ]
    command += ["--steps", "3", "--max-tokens", "12", "--stop-timeout", "60", *args]
    done = subprocess.run(
        [str(part) for part in command], cwd=folder, capture_output=True, text=True, timeout=150
    )
    assert done.returncode == code, done.stdout + done.stderr
    told, decoder = done.stdout.strip(), json.JSONDecoder()
    lists = []
    while told:  # workers print lists of their own, which are empty
        found, end = decoder.raw_decode(told)
        lists.append(found)
        told = told[end:].strip()
    return {entry["name"]: entry for entry in max(lists, key=len)}


@pytest.mark.slow
@pytest.mark.parametrize(
    "workers", [(), pytest.param(("--processes", "2"), marks=pytest.mark.slow)]
)
def test_every_kind_of_user_reads_its_streams(server: Server, tmp_path, workers):
    counted = locust(server.url, tmp_path, "-u", "8", "-r", "8", "-t", "20s", *workers)
    for route in ROUTES:
        whole = counted[route]
        assert whole["num_requests"] > 0 and whole["num_failures"] == 0
        for mark in ("first event", "first settled", "full draft", "queue", "denoise"):
            mine = counted[f"{route} {mark}"]
            assert mine["num_requests"] == whole["num_requests"]
            assert mine["total_response_time"] <= whole["total_response_time"]


def test_failures_are_told_and_users_without_a_model_stop(stub: Stubbed, tmp_path):
    """The stub has no list of models, so nobody has anything to ask."""
    counted = locust(stub.url, tmp_path, "-u", "2", "-r", "2", "-t", "3s", code=1)
    assert set(counted) == {"/v1/models"} and counted["/v1/models"]["num_failures"] > 0
