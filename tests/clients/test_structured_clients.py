"""Structured output and tool loops of clients that others wrote, on a tiny random checkpoint.

The programs validate what they get by their own schemas, and print the types that came out.
"""

from __future__ import annotations

import json

import pytest

from tests.clients.conftest import HERE, PYTHON
from tests.support.caller import FIRST, TOKENS

pytestmark = pytest.mark.clients

PROGRAMS = HERE / "programs"


@pytest.fixture
def python(report, caller):
    """Runs one of the programs against the checkpoint."""
    return lambda name, *more: report(PYTHON / "python", PROGRAMS / name, caller.url, *more)


def test_openai_for_python(python):
    seen = python("structured_openai.py")
    assert seen.pop("either") == "Pet"
    assert seen == {
        **{"chat": ["Pet", "stop"], "chat_stream": ["Pet", "stop"]},
        **{"responses": ["Pet", "completed"], "responses_stream": ["Pet", "completed"]},
        **{"call": ["keep", "tool_calls"], "call_stream": ["keep", "tool_calls"]},
        **{"item": ["keep", "completed"], "item_stream": "keep"},
        **{"after_call": "Pet", "after_item": "Pet"},
    }


def test_langchain(python):
    seen = python("structured_langchain.py")
    for name in ("chat", "responses"):
        for method in ("json_schema", "function_calling"):
            assert seen[f"{name} {method}"] == seen[f"{name} {method} stream"] == "Pet"
        assert seen[f"{name} sum"] and seen[f"{name} end"] == "Pet"
        assert seen[f"{name} stream"] == ["add", ["a", "b"]]
    assert seen["json_mode"] == "dict"


def test_instructor(python):
    seen = python("structured_instructor.py")
    assert len(seen) == 6
    assert all(value in ("Pet", True) for value in seen.values()), seen


def test_pydantic_ai(python):
    bias = {str(FIRST + TOKENS.index("<tool_call>")): 100}
    seen = python("structured_pydantic_ai.py", json.dumps(bias))
    assert seen.pop("loop") == ["Pet", 1, 4]
    assert len(seen) == 8 and set(seen.values()) == {"Pet"}


def test_anthropic(python):
    assert python("structured_anthropic.py") == {
        **{"parse": ["Pet", "end_turn"], "stream": ["Pet", "end_turn"]},
        **{"use": ["keep", "tool_use"], "after_use": "Pet", "use_stream": "Pet"},
    }


def test_vercels_ai_sdk(report, caller):
    seen = report("node", PROGRAMS / "structured_ai_sdk.mjs", caller.url)
    assert set(seen) == {"compatible", "chat", "responses"}
    for name, found in seen.items():
        assert found == {
            **{"valid": [True] * 3, "choice": True, "reason": "tool-calls", "sum": True},
            **{"ended": True, "streamed": [True]},
        }, name


def test_openai_for_javascript(report, caller):
    seen = report("node", PROGRAMS / "structured_openai_node.mjs", caller.url)
    assert seen == dict.fromkeys(("chat", "chatStream", "responses", "responsesStream"), True)
