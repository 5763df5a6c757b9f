"""Clients that others wrote for OpenAI's API, as programs of their own against ``stories``.

Each prints what it got; the same request, posted by hand, says what that should be.
"""

from __future__ import annotations

import json

import pytest

from tests.clients.conftest import HERE, PYTHON
from tests.support.caller import ANSWER, ARGUMENTS, TOKENS, saying
from tests.support.http import post
from tests.support.serving import Served

pytestmark = pytest.mark.clients

PROGRAMS = HERE / "programs"
BODY = {"prompt": "Once upon a time", "max_tokens": 40, "seed": 7, "steps": 8}
OTHER = {**BODY, "prompt": "Tom had a dog."}
BLOCKS = {**BODY, "sampler": "topk", "mixing_ratio": 0.0, "block_length": 10}
REFUSED = [
    ["BadRequestError", 400, "temperature", "invalid_value"],
    ["NotFoundError", 404, "model", "model_not_found"],
    ["BadRequestError", 400, "stpes", "invalid_value"],
]


def text(served: Served, body: dict, **more) -> str:
    status, answer = post(served, **body, **more)
    assert status == 200
    return answer["choices"][0]["text"]


@pytest.fixture
def told(stories) -> str:
    return text(stories, BODY)


def test_openai_for_javascript(stories, told, report):
    seen = report("node", PROGRAMS / "openai_node.mjs", stories.url)
    assert seen["chat"] == seen["helper"] == seen["pieces"] == seen["runner"] == told
    assert seen["text"] == told and seen["usage"] == seen["helperUsage"] == 45
    assert seen["blocks"] == "".join(seen["parts"]) == text(stories, BLOCKS)
    assert len(seen["parts"]) > 3
    tokens, log_ps, most = seen["logprobs"]
    assert tokens == log_ps == 40 and most <= 0
    assert seen["steps"] == [*range(9)]
    assert seen["models"] == ["stories"] and seen["requestId"]
    assert seen["errors"] == REFUSED
    assert seen["aborted"] == "APIUserAbortError"
    assert max(seen["freedAfterBreak"], seen["freedAfterAbort"]) < 500  # milliseconds


def test_vercels_ai_sdk(stories, report):
    seen = report("node", PROGRAMS / "ai_sdk.mjs", stories.url)
    for name in ("compatible", "compatibleText", "openai", "openaiText"):
        got = seen[name]
        assert got["text"] == got["streamed"] != ""
        assert got["reason"] == got["streamedReason"] in ("stop", "length")
        assert got["tokens"] == got["streamedTokens"] and got["tokens"][1] > 0
    body, longer, other, blocks = (
        text(stories, body, temperature=0.3)  # which it asks for
        for body in (BODY, {**BODY, "steps": 32}, OTHER, BLOCKS)
    )
    assert seen["compatible"]["text"] == body
    assert seen["openai"]["text"] == longer
    assert seen["secondTurn"] == other
    assert "".join(seen["blocks"]) == blocks and len(seen["blocks"]) > 3
    name, status, message = seen["error"]
    assert (name, status) == ("APICallError", 400) and "temperature" in message


def test_langchain(stories, told, report):
    seen = report(PYTHON / "python", PROGRAMS / "with_langchain.py", stories.url)
    for call in ("invoke", "stream", "ainvoke", "astream"):
        assert seen[call] == told, call
    assert seen["batch"] == [told] * 3 and seen["reason"] == "length"
    assert seen["usage"]["total_tokens"] == seen["stream_usage"]["total_tokens"] == 45
    assert "".join(seen["blocks"]) == text(stories, BLOCKS) and len(seen["blocks"]) > 3
    assert seen["second_turn"] == text(stories, OTHER)
    assert seen["logprobs"] == 40
    own = {"temperature": 0.7, "top_p": 1}  # its defaults
    warm = [text(stories, body, **own) for body in (BODY, OTHER)]
    assert seen["text"] == seen["text_stream"] == warm[0] and seen["texts"] == warm
    assert seen["error"] == "OpenAIInvalidRequestError"


def test_litellm(stories, told, report):
    seen = report(PYTHON / "python", PROGRAMS / "with_litellm.py", stories.url)
    other = text(stories, OTHER)
    for provider in ("openai", "hosted_vllm"):
        assert seen[provider] == seen[f"{provider}_stream"] == told
        assert seen[f"{provider}_usage"] == seen[f"{provider}_stream_usage"] == [5, 40]
        assert seen[f"{provider}_second_turn"] == other
    assert seen["acompletion"] == seen["text"] == seen["text_stream"] == told
    assert seen["texts"] == [told, other] and seen["logprobs"] == 40
    assert seen["errors"] == [["BadRequestError", 400], ["NotFoundError", 404]]


def test_anthropic(stories, caller, told, report):
    said = {"call": saying(TOKENS[1]), "answer": saying(ANSWER)}
    program = PROGRAMS / "with_anthropic.py"
    seen = report(PYTHON / "python", program, stories.url, caller.url, json.dumps(said))
    assert seen["text"] == told and seen["stop"] == ["max_tokens", None]
    assert seen["usage"] == [5, 40] and seen["second_turn"] == text(stories, OTHER)
    blocks = text(stories, BLOCKS)
    assert "".join(seen["parts"]) == blocks and len(seen["parts"]) > 3
    assert seen["final"][0] == blocks and seen["final"][2] == 40
    assert seen["stopped"] == [told[:10], "stop_sequence", True]
    assert seen["errors"] == [
        ["BadRequestError", 400, "invalid_request_error"],
        ["NotFoundError", 404, "not_found_error"],
        ["BadRequestError", 400, "invalid_request_error"],
    ]
    assert seen["use"] == ["tool_use", "add", json.loads(ARGUMENTS)]
    assert seen["answer"] == ANSWER


@pytest.fixture
def llm(stories, program, tmp_path):
    """Simon Willison's ``llm``, with the server among its models."""
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- {{model_id: stories, model_name: stories, api_base: {stories.url}/v1}}\n"
        f"- {{model_id: stories-text, model_name: stories, api_base: {stories.url}/v1, "
        "completion: true}\n"
    )

    def run(*arguments: str) -> str:
        return program(PYTHON / "llm", *arguments, LLM_USER_PATH=str(tmp_path)).stdout

    return run


def test_llm_on_the_command_line(stories, llm):
    expected = text(stories, {**BODY, "steps": 32})
    asked = ["Once upon a time", "-o", "max_tokens", "40", "-o", "seed", "7"]
    assert llm("-m", "stories", *asked) == expected + "\n"
    assert llm("-m", "stories", "--no-stream", *asked) == expected + "\n"
    assert llm("-m", "stories-text", *asked, "-o", "logprobs", "2") == expected + "\n"
    (logged,) = json.loads(llm("logs", "-n", "1", "--json"))
    assert logged["response"] == expected
    told = [top for part in logged["response_json"]["logprobs"] for top in part["top_logprobs"]]
    assert len(told) == 40 and all(log_p <= 0 for top in told for log_p in top.values())


def test_llm_goes_on_with_a_conversation(stories, llm):
    llm("-m", "stories", "-s", "You tell stories.", "Once upon a time", "-o", "max_tokens", "20")
    asked = ["-o", "max_tokens", "40", "-o", "seed", "7"]
    expected = text(stories, {**OTHER, "steps": 32})
    assert llm("-c", "Tom had a dog.", *asked) == expected + "\n"
    logged = json.loads(llm("logs", "-n", "2", "--json"))
    assert len({entry["conversation_id"] for entry in logged}) == 1
    assert [entry["input_tokens"] for entry in logged] == [5, 6]
