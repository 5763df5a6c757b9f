"""Requests made from the specification, right and wrong ones, against a real server: nothing is a
500, and every answer is one that the specification has.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from models.bundled import BUNDLED
from models.checkpoints.load import load_checkpoint
from tests.support.effort import count
from tests.support.serving import Served, make_engine, run_server, settings_of, write_tiny

pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")  # schemathesis

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
LIMITS = {"max_steps": 8, "max_choices": 16, "max_work": 2048, "docs": True}


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Iterator[Served]:
    """A canvas of 64 positions, a chat template, and low limits: cases are to be quick."""
    folder = write_tiny(tmp_path_factory.mktemp("fuzz") / "tiny")
    shutil.copy(BUNDLED / "stories" / "tokenizer_config.json", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_sequence_length": 64}))
    loaded = load_checkpoint(folder)
    assert loaded.info.max_length == 64
    yield from run_server(make_engine(loaded), settings_of(**LIMITS))


def fuzz(served: Served, examples: int, derandomize: bool) -> Counter[tuple[str, int]]:
    """So many cases of each route with a body, and fewer of the others; counts by route and
    status.
    """
    schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    counts: Counter[tuple[str, int]] = Counter()
    with requests.Session() as session:
        for result in schema.get_all_operations():
            assert isinstance(result, Ok)
            operation = result.ok()
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                if mode is GenerationMode.NEGATIVE and not operation.body:
                    continue

                @settings(
                    max_examples=examples if operation.body else max(1, examples // 20),
                    deadline=None,
                    database=None,
                    derandomize=derandomize,
                    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
                )
                @given(case=operation.as_strategy(generation_mode=mode))
                def run(case):
                    response = case.call_and_validate(session=session, checks=CHECKS, timeout=60)
                    counts[case.operation.label, response.status_code] += 1

                run()
    return counts


def test_generated_requests(small):
    counts = fuzz(small, count(7, 180), derandomize=True)
    assert sum(counts.values()) >= count(90, 2_000)
    # a fuzzer whose every case is refused at the door sees nothing of the house
    for route in ("completions", "chat/completions", "responses", "messages", "decisions"):
        assert counts[f"POST /v1/{route}", 200] >= count(1, 20)
    assert small.engine.scheduler.running + small.engine.scheduler.waiting == 0


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_fifty_thousand_cases(small):
    counts = fuzz(small, 4_400, derandomize=False)
    assert sum(counts.values()) >= 50_000
