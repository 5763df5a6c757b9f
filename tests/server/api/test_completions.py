"""The HTTP surface: real uvicorn, raw sockets and the OpenAI SDK."""

from __future__ import annotations

import http.client
import json
import socket
import time

import openai
import pytest

from server.engine.request_params import ANY_KIND
from tests.support.http import BODY, call, events, metric, post, raw_post, wait_for
from tests.support.serving import make_engine, run_server, settings_of


@pytest.fixture
def client(served):
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk


def test_completion_with_the_sdk(client):
    done = client.completions.create(
        model="tiny",
        prompt="Once upon a time",
        max_tokens=30,
        seed=5,
        temperature=0.7,
        extra_body={"steps": 6, "mixing_ratio": 0.3},
    )
    assert done.object == "text_completion" and done.model == "tiny"
    assert done.choices[0].text and done.choices[0].finish_reason in ("stop", "length")
    usage = done.usage.model_dump()
    assert usage["prompt_tokens"] == 5
    assert usage["total_tokens"] == 5 + usage["completion_tokens"]
    assert usage["diffusion"]["steps"] == 6
    assert usage["diffusion"]["positions"] == 30
    assert 1 <= usage["diffusion"]["forwards"] <= 7


def test_concatenated_stream_equals_the_text(client):
    args = {"model": "tiny", "prompt": "Tom", "max_tokens": 40, "seed": 6}
    whole = client.completions.create(**args, extra_body={"steps": 5})
    for trajectory in ("none", "delta"):
        stream = client.completions.create(
            **args,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"steps": 5, "trajectory": trajectory},
        )
        chunks = list(stream)
        text = "".join(c.choices[0].text for c in chunks if c.choices)
        assert text == whole.choices[0].text
        assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] is not None
        assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens > 0
        assert len({c.id for c in chunks}) == 1


def test_trajectory_stream_replays_to_the_answer(served):
    response, text = call(
        served,
        "POST",
        "/v1/completions",
        {**BODY, "steps": 24, "mixing_ratio": 0.3, "stream": True, "trajectory": "delta"},
    )
    assert response.status == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    found = events(text.decode())
    assert found[-1] == "[DONE]" and found.count("[DONE]") == 1
    records = [c["diffusion"] for c in map(json.loads, found[:-1]) if "diffusion" in c]
    assert "snapshot" in records[0] and records[0]["step"] == 0
    assert [r["step"] for r in records] == [*range(25), 24] and records[-1]["final"]
    assert sum("snapshot" in r for r in records) == 2
    canvas, mask = list(records[0]["snapshot"]["ids"]), 4453
    for r in records[1:]:
        for c in r["changes"]:
            assert (None if canvas[c["pos"]] == mask else canvas[c["pos"]]) == c["was"]
            canvas[c["pos"]] = c["id"]
        assert r["masked"] == canvas.count(mask) and r["v"] == 1 and r["steps"] == 24
        if "snapshot" in r:
            assert r["snapshot"]["ids"] == canvas
    kinds = {c["op"] for r in records for c in r["changes"]}
    assert kinds == {"unmask", "refine", "remask"}
    # an ordinary chunk, but for the extra object: an unaware client sees empty text
    chunk = json.loads(found[0])
    assert chunk["choices"] == [{"index": 0, "text": "", "logprobs": None, "finish_reason": None}]


TOPK = {"sampler": "topk", "mixing_ratio": 0.0, "block_length": 10}
LOOP = {"sampler": "remdm", "remdm_schedule": "loop", "steps": 20}


@pytest.mark.parametrize(
    ("chosen", "least"),
    [
        (TOPK, 4),
        ({**TOPK, "mixing_ratio": 0.3, "refine_scope": "block"}, 3),
        ({**TOPK, "mixing_ratio": 0.3}, 1),
        ({"sampler": "remdm", "remdm_eta": 0.0}, 3),
        ({**LOOP, "remdm_t_on": 0.95, "remdm_t_off": 0.9, "remdm_alpha_on": 0.2, "seed": 2}, 3),
        (LOOP, 1),
        ({"sampler": "gidd", "p_uniform": 0.2}, 1),
    ],
)
def test_settled_text_streams_early_and_is_never_taken_back(served, chosen, least):
    body = {**BODY, **chosen}
    whole = post(served, **body)[1]
    _, text = call(served, "POST", "/v1/completions", {**body, "stream": True})
    *chunks, end = events(text.decode())
    assert end == "[DONE]"
    pieces = [json.loads(c)["choices"][0]["text"] for c in chunks]
    assert "".join(pieces) == whole["choices"][0]["text"]
    if whole["choices"][0]["finish_reason"] == "length":
        assert sum(bool(p) for p in pieces) >= least


def test_same_seed_same_text_and_a_drawn_seed_is_returned(served):
    _, first = post(served, **BODY)
    _, second = post(served, **BODY)
    assert first["choices"] == second["choices"] and first["seed"] == 11
    _, drawn = post(served, **{**BODY, "seed": None})
    _, again = post(served, **{**BODY, "seed": drawn["seed"]})
    assert drawn["choices"] == again["choices"]


def test_a_prompt_cannot_smuggle_in_special_tokens(served):
    status, answer = post(served, **{**BODY, "prompt": "a <|mdm_mask|> b <|endoftext|> c"})
    assert status == 200
    assert answer["usage"]["prompt_tokens"] > 20  # spelt out, not single ids
    assert answer["usage"]["diffusion"]["positions"] == 30


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"steps": 0}, "steps", "between 1 and"),
        ({"steps": 10**6}, "steps", "between 1 and"),
        ({"steps": True}, "steps", "integer"),
        ({"steps": 2.5}, "steps", "integer"),
        ({"temperature": -1}, "temperature", "between"),
        ({"top_p": 0}, "top_p", "above 0"),
        ({"top_p": "1"}, "top_p", "number"),
        ({"mixing_ratio": 1.5}, "mixing_ratio", "between"),
        ({"seed": 2**63}, "seed", "between"),
        ({"noise_removal": "magic"}, "noise_removal", "ancestral"),
        ({"sampler": "nonsense"}, "sampler", "ancestral, topk, threshold, gidd, remdm"),
        ({"max_tokens": 0}, "max_tokens", "at least 1"),
        ({"max_tokens": 252}, "max_tokens", "256 positions; the prompt takes 5"),
        ({"max_tokens": 2**40}, "max_tokens", "256 positions"),
        ({"prompt": None}, "prompt", "prompt"),
        ({"prompt": []}, "prompt", "empty list"),
        ({"prompt": ["a"] * 300}, "prompt", "1 × 300 = 300; the limit is 128"),
        ({"prompt": "\ud800"}, "prompt", "Unicode"),
        ({"stream": "yes"}, "stream", "boolean"),
        ({"trajectory": "delta"}, "trajectory", "stream"),
        ({"n": 0}, "n", "n: Input should be greater than or equal to 1"),
        ({"n": 129}, "n", "n is 129; the limit is 128"),
        ({"n": 128, "prompt": ["a"] * 3}, "n", "128 × 3 = 384; the limit is 128"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "not a token id between 0 and 4453"),
        ({"logit_bias": {"4454": 1}}, "logit_bias", "not a token id between 0 and 4453"),
        ({"logit_bias": {"5": 101}}, "logit_bias", "less than or equal to 100"),
        ({"logit_bias": {"5": 1, "05": 2}}, "logit_bias", "5 is given twice"),
        ({"logprobs": 21}, "logprobs", "less than or equal to 20"),
        ({"logprobs": True}, "logprobs", "integer"),
        ({"echo": True, "suffix": "x"}, "echo", "suffix"),
        ({"diffusing": True}, "diffusing", "stream"),
        ({"diffusing": True, "stream": True, "trajectory": "delta"}, "diffusing", "exclude"),
        ({"latency_budget_ms": 0}, "latency_budget_ms", "greater than 0"),
        ({"presence_penalty": 1}, "presence_penalty", "presence_penalty is not supported"),
        ({"stop": ["x"] * 17}, "stop", "17; the limit is 16"),
        ({"stop": [""]}, "stop", "at least 1"),
        ({"stop": 3}, "stop", "stop"),
        (
            {"block_length": 8},
            "block_length",
            "by samplers topk, threshold, dream and entropy_bound; got ancestral",
        ),
        (
            {"sampler": "topk", "topk_absorb": [30, 0, 0, 0, 0, 1]},
            "topk_absorb",
            "must sum to the 30 masked positions, not 31",
        ),
        ({"sampler": "topk", "topk_absorb": [30]}, "topk_absorb", "one entry per step"),
        ({"sampler": "topk", "block_length": 4}, "steps", "number of blocks, 8"),
        ({"sampler": "topk", "noise_removal": "none"}, "noise_removal", "ancestral"),
        ({"p_uniform": 0.1}, "p_uniform", "by sampler gidd; got ancestral"),
        ({"sampler": "gidd", "p_uniform": 1}, "p_uniform", "below 1"),
        ({"sampler": "gidd", "mixing_ratio": 0.1}, "mixing_ratio", "got gidd"),
        ({"remdm_eta": 0.1}, "remdm_eta", "by sampler remdm; got ancestral"),
        (
            {"sampler": "remdm", "remdm_t_on": 0.7},
            "remdm_t_on",
            "by remdm_schedule loop; got cap",
        ),
        ({"sampler": "remdm", "remdm_eta": 2}, "remdm_eta", "between 0 and 1"),
        ({"temprature": 1}, "temprature", "did you mean temperature?"),
        ({"zzz": 1}, "zzz", "unknown field 'zzz'"),
    ],
)
def test_bad_values_are_named(served, change, param, words):
    status, answer = post(served, **{**BODY, **change})
    assert status == 400
    error = answer["error"]
    assert error["type"] == "invalid_request_error" and words in error["message"]
    assert error["param"] == param


def test_neutral_values_are_accepted(served):
    neutral = {"n": 1, "best_of": 1, "presence_penalty": 0, "logit_bias": {}, "echo": False}
    neutral |= {"logprobs": None, "suffix": "", "stop": None, "user": "someone"}
    assert post(served, **BODY, **neutral)[0] == 200


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"prompt": NaN}']
)
def test_bodies_that_are_no_object(served, body):
    response, text = call(served, "POST", "/v1/completions", body)
    assert response.status == 400
    assert set(json.loads(text)["error"]) == {"message", "type", "param", "code"}


def test_unknown_model_and_route(served, client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="gpt-4", prompt="x")
    assert caught.value.code == "model_not_found"
    response, text = call(served, "GET", "/v1/nothing")
    assert response.status == 404 and "error" in json.loads(text)
    response, text = call(served, "GET", "/v1/completions")
    assert response.status == 405 and "error" in json.loads(text)


def test_models_health_version_and_request_ids(served, client):
    listed = client.models.list().data
    assert [m.id for m in listed] == ["tiny"]
    diffusion = client.models.retrieve("tiny").model_dump()["diffusion"]
    assert diffusion["samplers"] == ANY_KIND.samplers and diffusion["steps"] == 32
    assert diffusion["mask_token"] == {"id": 4453, "text": "<|mdm_mask|>"}
    for path in ("/health", "/ready", "/version"):
        response, _ = call(served, "GET", path)
        assert response.status == 200 and response.headers["X-Request-Id"]
    response, _ = call(served, "GET", "/health", headers={"X-Request-Id": "mine-1"})
    assert response.headers["X-Request-Id"] == "mine-1"
    response, _ = call(served, "GET", "/health", headers={"X-Request-Id": "bad id\t"})
    assert response.headers["X-Request-Id"] != "bad id\t"


def test_metrics_count_what_happened(served):
    before = {
        name: metric(served, f"xdlm_{name}")
        for name in ("generation_tokens_total", "head_rows_total", "step_seconds_count")
    }
    status, answer = post(served, **BODY)
    assert status == 200
    after = {name: metric(served, f"xdlm_{name}") for name in before}
    grown = {name: after[name] - before[name] for name in before}
    assert grown["generation_tokens_total"] == answer["usage"]["completion_tokens"]
    assert grown["step_seconds_count"] == 7
    assert grown["head_rows_total"] >= 30
    assert metric(served, "xdlm_requests_running") == 0


@pytest.mark.parametrize("stream", [True, False])
def test_hanging_up_frees_the_slot(served, stream):
    scheduler = served.engine.scheduler
    body = {**BODY, "steps": 4000, "stream": stream}
    if stream:
        body["trajectory"] = "delta"
    connection = raw_post(served.port, body)
    wait_for(lambda: scheduler.running == 1)
    if stream:
        connection.recv(4096)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()  # RST
    began = time.monotonic()
    wait_for(lambda: scheduler.running == 0)
    assert time.monotonic() - began < 0.5
    assert post(served, **BODY)[0] == 200


def test_a_full_queue_is_429_at_once(tiny):
    server = run_server(make_engine(tiny, max_waiting=1, max_running=1), settings_of())
    served = next(server)
    long = [raw_post(served.port, {**BODY, "steps": 4000}) for _ in range(1)]
    wait_for(lambda: served.engine.scheduler.running == 1)
    long.append(raw_post(served.port, {**BODY, "steps": 4000}))
    wait_for(lambda: served.engine.scheduler.waiting == 1)
    for stream in (False, True):
        began = time.monotonic()
        response, text = call(served, "POST", "/v1/completions", {**BODY, "stream": stream})
        assert time.monotonic() - began < 0.5
        assert response.status == 429 and int(response.headers["Retry-After"]) >= 1
        assert json.loads(text)["error"]["type"] == "rate_limit_error"
    for connection in long:
        connection.close()
    wait_for(lambda: served.engine.scheduler.running + served.engine.scheduler.waiting == 0)
    assert metric(served, 'xdlm_request_failure_total{code="queue_full"}') == 2
    next(server, None)


def test_shutdown_ends_streams_with_an_error_chunk(tiny):
    server = run_server(make_engine(tiny), settings_of())
    served = next(server)
    connection = raw_post(served.port, {**BODY, "steps": 4000, "stream": True})
    wait_for(lambda: served.engine.scheduler.running == 1)
    served.engine.stop()
    response = http.client.HTTPResponse(connection)
    response.begin()
    found = events(response.read().decode())
    assert json.loads(found[-2])["error"]["code"] == "shutting_down" and found[-1] == "[DONE]"
    response, _ = call(served, "GET", "/ready")
    assert response.status == 503 and response.headers["Retry-After"]
    assert post(served, **BODY)[0] == 503
    connection.close()
    next(server, None)
