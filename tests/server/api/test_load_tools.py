"""Fields of load generators and evaluation harnesses beyond OpenAI's."""

from __future__ import annotations

import concurrent.futures
import json

import pytest

from tests.support.http import BODY, call, post
from tests.support.text_streams import SAMPLERS, TOPK, streamed

BLOCKS = {**TOPK, "mixing_ratio": 0.0}


def ending(tiny, **chosen) -> dict:
    """A body whose text meets an end token before its last position."""
    bias = 10 if chosen.get("sampler") == "topk" else 7
    seed = 13 if chosen.get("sampler") in ("gidd", "remdm") else BODY["seed"]
    wish = {"logit_bias": {str(tiny.info.eos_id): bias}, "temperature": 1.0, "seed": seed}
    return {**BODY, **chosen, **wish}


@pytest.mark.parametrize("chosen", [*SAMPLERS, BLOCKS])
def test_a_text_that_ignores_its_end_fills_the_canvas(served, tiny, chosen):
    body = ending(tiny, **chosen)
    plain = post(served, **body)[1]
    assert plain["choices"][0]["finish_reason"] == "stop"
    assert 0 < plain["usage"]["completion_tokens"] < 30
    through = post(served, **body, ignore_eos=True)[1]
    choice = through["choices"][0]
    assert choice["finish_reason"] == "length"
    assert through["usage"]["completion_tokens"] == 30
    assert choice["text"].startswith(plain["choices"][0]["text"])
    chunks = streamed(served, **body, ignore_eos=True)
    assert "".join(c["choices"][0]["text"] for c in chunks) == choice["text"]


def test_a_text_that_ignores_its_end_is_denoised_to_the_last_block(served, tiny):
    body = ending(tiny, **{**BLOCKS, "steps": 10, "block_length": 3})
    short = post(served, **body)[1]["usage"]
    assert 0 < short["completion_tokens"] < 27 and short["diffusion"]["steps"] < 10
    assert post(served, **body, ignore_eos=True)[1]["usage"]["diffusion"]["steps"] == 10
    options = {"continuous_usage_stats": True}
    chunks = streamed(served, **body, ignore_eos=True, stream_options=options)
    written = [c["usage"]["completion_tokens"] for c in chunks]
    assert set(written) & set(range(short["completion_tokens"] + 1, 30))


def test_ignore_eos_changes_its_own_request_alone(served, tiny):
    """Beside requests that ignore theirs, an answer ends where it ends alone."""
    body = ending(tiny, **BLOCKS)
    alone = {flag: post(served, **body, ignore_eos=flag)[1]["choices"] for flag in (False, True)}
    assert alone[False] != alone[True]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        flags = [True, False] * 6
        answers = [pool.submit(post, served, **body, ignore_eos=flag) for flag in flags]
        for flag, answer in zip(flags, answers, strict=True):
            assert answer.result()[1]["choices"] == alone[flag]


def test_a_stop_string_ends_a_text_that_ignores_its_end(served, tiny):
    body = ending(tiny, ignore_eos=True)
    text = post(served, **body)[1]["choices"][0]["text"]
    choice = post(served, **body, stop=text[5:9])[1]["choices"][0]
    assert choice["text"] == text[: text.find(text[5:9])]
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize("stop", [None, "nowhere", "late"])
def test_usage_so_far_stands_on_every_chunk_and_never_falls(served, stop):
    body = {**BODY, **BLOCKS, "steps": 10, "block_length": 3}
    if stop == "late":  # most of a block's text waits until the next block is there
        blocks = [c["choices"][0]["text"] for c in streamed(served, **body)]
        stop = blocks[5][3:] + blocks[6][:2]
    body |= {"stop": stop}
    whole = post(served, **body)[1]
    options = {"include_usage": True, "continuous_usage_stats": True}
    *chunks, last = streamed(served, **body, stream_options=options)
    assert last["choices"] == [] and "diffusion" in last["usage"]
    counts = ("prompt_tokens", "completion_tokens", "total_tokens")
    for chunk in chunks:
        assert list(chunk["usage"]) == list(counts)
        assert chunk["usage"]["prompt_tokens"] == whole["usage"]["prompt_tokens"]
    written = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert written == sorted(written) and len(set(written)) > 2
    assert [c["choices"][0]["text"] != "" for c in chunks][:-1] == [True] * (len(chunks) - 1)
    assert {n: last["usage"][n] for n in counts} == {n: whole["usage"][n] for n in counts}
    assert chunks[-1]["usage"] == {n: whole["usage"][n] for n in counts}


def test_usage_so_far_without_a_last_account(served):
    chunks = streamed(served, **BODY, stream_options={"continuous_usage_stats": True})
    assert all(c["choices"] and "usage" in c for c in chunks)
    chunks = streamed(served, **BODY, stream_options={"include_usage": True})
    assert ["usage" in c for c in chunks] == [False] * (len(chunks) - 1) + [True]


def test_chat_tells_usage_from_its_opening_chunk_on(chatty):
    body = {k: v for k, v in BODY.items() if k != "prompt"}
    body |= {"messages": [{"role": "user", "content": "Hi"}], "n": 2}
    options = {"include_usage": True, "continuous_usage_stats": True}
    *chunks, last = streamed(chatty, "/v1/chat/completions", **body, stream_options=options)
    assert chunks[0]["usage"]["completion_tokens"] == 0
    assert chunks[-1]["usage"].items() <= last["usage"].items()


def test_sixteen_stop_strings(served):
    text = post(served, **BODY)[1]["choices"][0]["text"]
    stops = [*("\x00" * n for n in range(1, 16)), text[8:12]]
    choice = post(served, **BODY, stop=stops)[1]["choices"][0]
    assert choice["text"] == text[: text.find(text[8:12])]


def test_an_empty_key_is_no_key(served):
    """As lm-eval sends it where it has none."""
    headers = {"Content-Type": "application/json", "Authorization": "Bearer "}
    response, text = call(served, "POST", "/v1/completions", BODY, headers)
    assert response.status == 200 and json.loads(text)["choices"]
