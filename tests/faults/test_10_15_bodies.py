"""Bodies that ask for what cannot be, or hide something. ``tests/server/api/test_bodies.py`` and
``test_limits.py`` hold the field by field cases, and a storm of made-up bodies.
"""

from __future__ import annotations

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from models.checkpoints.load import load_checkpoint
from models.tokenization.tokenizer import TextTokenizer
from server.http.offload import offload
from tests.faults.conftest import watched
from tests.support.effort import count, some
from tests.support.http import call
from tests.support.serving import write_tiny
from tests.support.sockets import CANARY

BIG = (2**31, 2**63, 10**30, -1, -(2**63), True, 1.5, 1e308, "1", [], {})


def post(server, body: bytes | dict, path: str = "/v1/completions") -> tuple[int, dict]:
    response, text = call(server.served, "POST", path, body)
    return response.status, json.loads(text)


def refused(server, body: bytes | dict) -> dict:
    status, answer = post(server, body)
    assert status == 400 and set(answer["error"]) == {"message", "type", "param", "code"}
    return answer["error"]


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"prompt": "a", "prompt": "b"}',
        b'{"prompt": "a", "temperature": NaN}',
        b'{"prompt": "a", "temperature": -Infinity}',
        b'{"prompt": "a", "top_p": 1e400}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "a", "seed": ' + b"9" * 100_000 + b"}",
        b'{"prompt": "\xff"}',
        b"\0",
    ],
)
def test_row_10_json_that_is_none_or_reads_in_two_ways(server, body):
    refused(server, body)


def test_row_10_a_nul_is_text(server):
    assert post(server, {**CANARY, "prompt": "a\x00b"})[0] == 200


@pytest.mark.parametrize("field", ["n", "max_tokens", "steps", "logprobs", "top_logprobs", "seed"])
def test_row_11_extremes(server, field):
    """Refused by name, within 50 ms: the best of some, on a machine that does other things too."""
    for value in BIG:
        if field == "seed" and value in (2**31, -1, -(2**63)):
            continue  # seeds like any other
        took: list[float] = []
        while not took or (min(took) > 0.05 and len(took) < 10):
            began = time.monotonic()
            error = refused(server, {**CANARY, field: value})
            took.append(time.monotonic() - began)
            assert field in (error["param"], error["message"].split()[0].strip("'"))
        assert min(took) <= 0.05


def test_row_11_work_is_bounded(server):
    work = {**CANARY, "n": 128, "max_tokens": 250, "steps": 4096}
    assert "steps × positions" in refused(server, work)["message"]
    for best_of in (2, 2**31):
        assert refused(server, {**CANARY, "best_of": best_of})["param"] == "best_of"
    assert refused(server, {**CANARY, "stop": ["x"] * 10_000})["param"] == "stop"
    assert refused(server, {**CANARY, "logit_bias": {str(2**63): 1}})["param"] == "logit_bias"


PATHOLOGICAL = ["a", " ", "the king ", "é", "x\n", "🙂", "<|mdm_mask|>", "a\u0301"]


@pytest.mark.parametrize("text", some(PATHOLOGICAL, 3))
async def test_row_12_a_long_prompt_does_not_hold_the_loop(tiny, text):
    """A mebibyte of it is tokenised aside. A busy machine stalls by itself: the best of some."""
    tokenizer = tiny.tokenizer
    prompt = text * ((1 << 20) // len(text.encode()))
    found: list[float] = []
    while not found or (min(found) > 0.05 and len(found) < 5):
        worst, count = await stall(tokenizer, prompt)
        assert count > 256
        found.append(worst)
    assert min(found) <= 0.05


async def stall(tokenizer: TextTokenizer, prompt: str) -> tuple[float, int]:
    """The longest that the event loop stands still meanwhile, in seconds; and how many ids."""
    worst, last, over = 0.0, time.perf_counter(), False

    async def tick() -> None:
        nonlocal worst, last
        last = time.perf_counter()
        while not over:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            worst, last = max(worst, now - last), now

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0.01)
    count = await offload(len(prompt.encode()), tokenizer.count, prompt)
    over = True
    await ticking
    return worst, count


@pytest.mark.parametrize("text", PATHOLOGICAL)
def test_row_12_what_cannot_fit_is_refused_by_its_bytes(server, tiny, text):
    """Before it is tokenised: no piece is longer than 17 bytes, so that 4,352 are certain to be too
    many. CPU time of the thread: a busy machine does not count.
    """
    took, large = [], text * ((1 << 20) // len(text.encode()))
    for _ in range(5):
        began = time.thread_time()
        assert tiny.tokenizer.at_least(large) == -(-len(large.encode()) // 17)
        took.append(time.thread_time() - began)
    assert min(took) < 0.01
    prompt = large[: len(large) // 7]  # JSON may write six characters for a byte
    least = tiny.tokenizer.at_least(prompt)
    error = refused(server, {**CANARY, "prompt": prompt})
    assert error["code"] == "context_length_exceeded"
    assert f"the prompt takes at least {least} positions" in error["message"]
    assert "the canvas has 256" in error["message"]
    for field, path, body in (
        ("suffix", "/v1/completions", {"prompt": "a", "suffix": prompt}),
        ("text", "/v1/score", {"text": prompt}),
        ("text", "/v1/score", {"text": "a", "prompt": prompt}),
        ("prompt", "/v1/diffusion/trajectories", {"prompt": prompt}),
    ):
        status, answer = post(server, body, path)
        assert status == 400 and answer["error"]["param"] == field
        assert "at least" in answer["error"]["message"]


def test_row_12_both_counts_are_told(server):
    error = refused(server, {**CANARY, "prompt": "the king " * 400})
    assert error["code"] == "context_length_exceeded"
    assert "the prompt takes 802 positions" in error["message"]
    assert "the canvas has 256" in error["message"]
    for path, body in (
        ("/v1/score", {"text": "the king " * 400}),
        ("/v1/diffusion/trajectories", {"prompt": "the king " * 400}),
    ):
        status, answer = post(server, body, path)
        assert status == 400 and "256" in answer["error"]["message"]
    assert post(server, {"prompt": "the king " * 5_000}, "/tokenize")[1]["count"] == 10002


@pytest.mark.parametrize("prompt", ["", " ", "<|endoftext|>", "<|mdm_mask|>" * 3, "\x00"])
def test_row_12_prompts_of_nothing_are_answered(server, prompt):
    assert post(server, {**CANARY, "prompt": prompt})[0] == 200


def test_row_13_a_prompt_cannot_hold_a_mask(server):
    """Its text stays as it is; the id itself is refused."""
    mask = 4453
    body = {**CANARY, "prompt": "a <|mdm_mask|> b", "echo": True}
    status, answer = post(server, body)
    assert status == 200 and answer["choices"][0]["text"].startswith("a <|mdm_mask|> b")
    assert answer["usage"]["diffusion"]["positions"] == CANARY["max_tokens"]
    assert "mask id" in refused(server, {**CANARY, "prompt": [0, 5, mask]})["message"]
    _, told = post(server, {"prompt": "<|mdm_mask|><|endoftext|>"}, "/tokenize")
    assert mask not in told["tokens"]


@pytest.mark.parametrize(
    "field",
    [
        *("chat_template", "chat_template_kwargs", "template", "response_format", "guided_regex"),
        *("guided_json", "guided_grammar", "grammar", "regex", "structured_outputs", "tools"),
    ],
)
@pytest.mark.parametrize("value", ["{% for i in range(10**9) %}{% endfor %}", {"x": "(a+)+$"}])
def test_rows_14_15_templates_and_grammars_of_a_request_are_refused(server, field, value):
    for path in ("/v1/completions", "/v1/chat/completions"):
        body = {**CANARY, field: value, "messages": [{"role": "user", "content": "x"}]}
        body.pop("prompt" if "chat" in path else "messages")
        began = time.monotonic()
        status, answer = post(server, body, path)
        assert status == 400
        # these weights have no template: a chat is refused for that before a grammar is compiled
        well_formed = (field, type(value)) in (("guided_regex", str), ("guided_json", dict))
        expected = "messages" if "chat" in path and well_formed else field
        if "chat" in path and field == "chat_template_kwargs" and isinstance(value, dict):
            expected = f"{field}.x"
        assert answer["error"]["param"] == expected
        assert time.monotonic() - began < 1


def test_row_14_a_stored_template_without_an_end_costs_its_own_request(tmp_path):
    """Others are answered meanwhile, and the same as ever."""
    folder = write_tiny(tmp_path / "tiny")
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    (folder / "chat_template.jinja").write_text(endless)
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 4, "steps": 2}
    with watched(load_checkpoint(folder)) as server, ThreadPoolExecutor(4) as pool:
        asked = [
            pool.submit(post, server, body, "/v1/chat/completions") for _ in range(count(1, 3))
        ]
        asked.append(pool.submit(post, server, {"messages": body["messages"]}, "/tokenize"))
        meanwhile = 0
        while not all(request.done() for request in asked):
            assert server.ask() == server.canary
            assert post(server, {"prompt": "the king " * 4000}, "/tokenize")[0] == 200
            meanwhile += 1
            time.sleep(0.05)  # else asking takes most of the time
        assert meanwhile >= count(3, 4)  # a second for each at least
        for request in asked:
            status, answer = request.result()
            assert status == 400 and answer["error"]["code"] == "chat_template"
            assert "more than 1 s of CPU time" in answer["error"]["message"]
