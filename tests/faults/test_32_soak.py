"""All of it at once, for a while."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.serving import Server, serving
from benchmarks.soak import cancels, mix
from tests.support.effort import count as tried


@pytest.fixture(scope="module")
def server(tiny_folder) -> Iterator[Server]:
    with serving(str(tiny_folder)) as server:
        yield server


@pytest.mark.parametrize(
    "minutes",
    [tried(3, 15) / 100, pytest.param(30, marks=[pytest.mark.slow, pytest.mark.timeout(2400)])],
)
async def test_row_32_soak_with_faults(server, minutes):
    """No answer is lost, clients and metrics count the same, and nothing grows."""
    records = [record async for record in mix(server, minutes, seed=32)]
    summary = records[-1]
    assert summary["lost"] == summary["changed"] == 0
    assert summary["idle"] and summary["canary"]
    statuses = {name: n for name, n in summary["statuses"].items() if not name.endswith(" 200")}
    assert set(statuses) <= {"bad 400", "large 400"}
    told = summary["metrics"]
    successes = sum(n for name, n in told.items() if name.startswith("xdlm_request_success"))
    assert successes == summary["succeeded_by_client"] > 0
    failures = {name: n for name, n in told.items() if name.startswith("xdlm_request_failure")}
    assert set(failures) <= {'xdlm_request_failure_total{code="cancelled"}'}
    assert sum(failures.values()) <= summary["sent"]["drop"]
    if minutes > 1:
        assert summary["rss_mib_per_hour"] < 1
        assert summary["fds"][0] == summary["fds"][1]
        assert summary["threads"][0] == summary["threads"][1]


@pytest.mark.parametrize(
    "count", [tried(6, 15), pytest.param(2000, marks=[pytest.mark.slow, pytest.mark.timeout(2400)])]
)
async def test_row_32_cancels(server, count):
    """Slots are free at once, in a process of its own."""
    records = [record async for record in cancels(server, count, seed=1)]
    summary = records[-1]
    assert summary["idle"] and summary["canary"]
    assert summary["freed_p99_s"] < summary["mean_step_s"] + 1  # 0.1 where nothing else runs
