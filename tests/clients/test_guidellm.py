"""guidellm: a benchmark runs through, and its counts are the server's."""

from __future__ import annotations

import json

import pytest

from models.bundled import BUNDLED
from tests.clients.conftest import PYTHON

pytestmark = pytest.mark.clients


BLOCKS = "extras.body.sampler=topk,extras.body.mixing_ratio=0,extras.body.block_length=10"


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/completions"])
def test_a_benchmark_of_eight_requests(stories, program, tmp_path, route):
    program(
        *(PYTHON / "guidellm", "run", "--disable-console"),
        "--backend",
        f"kind=openai_http,target={stories.url},model=stories,request_format={route},"
        f"{BLOCKS},extras.body.steps=8",
        *("--profile", "kind=concurrent,streams=2"),
        *("--constraint", "kind=max_requests,count=8"),
        *("--tokenizer", f"kind=hf_auto,model={BUNDLED / 'stories'}"),
        *("--data", "kind=synthetic_text,prompt_tokens=24,output_tokens=40"),
        *("--output", "kind=json,path=report.json"),
    )
    (benchmark,) = json.loads((tmp_path / "report.json").read_text())["benchmarks"]
    requests = benchmark["requests"]
    assert not requests["errored"] and not requests["incomplete"]
    assert len(requests["successful"]) == 8
    for request in requests["successful"]:
        assert request["output"].strip()
        assert request["output_metrics"]["text_tokens"] == 40  # it ignores ends
        assert request["input_metrics"]["text_tokens"] > 0
        assert request["info"]["timings"]["token_iterations"] >= 4  # a block at a time
