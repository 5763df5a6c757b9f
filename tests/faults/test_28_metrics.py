"""Row 28 of the faults: nothing that a client sends becomes a series, or is in one."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.http import BODY, call
from tests.support.serving import make_engine, run_server, settings_of


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    from models.checkpoints.load import load_checkpoint
    from tests.support.serving import write_tiny

    folder = write_tiny(tmp_path_factory.mktemp("metrics") / "tiny")
    yield from run_server(make_engine(load_checkpoint(folder)), settings_of())


def series(server) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    text = call(server, "GET", "/metrics")[1].decode()
    assert "canary" not in text
    samples = (s for family in text_string_to_metric_families(text) for s in family.samples)
    return {(s.name, tuple(sorted(s.labels.items()))) for s in samples}


@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_row_28_series_stay_as_many(server, count):
    for body in (BODY, {**BODY, "stream": True}):
        assert call(server, "POST", "/v1/completions", body)[0].status == 200
    before = series(server)
    for number in range(count):
        name = f"canary-{number}"
        wrong = {**BODY, "model": name} if number % 2 else {**BODY, name: 1}
        headers = {"User-Agent": name, "X-Request-Id": name, "Content-Type": "application/json"}
        path = "/v1/completions" if number % 3 else f"/v1/{name}"
        response, _ = call(server, "POST", path, wrong, headers)
        assert response.status in (400, 404)
    called = {**BODY, "user": "canary", "prompt": "canary", "stop": ["canary"]}
    assert call(server, "POST", "/v1/completions", called)[0].status == 200
    assert series(server) == before
