"""Calls of tools in a text, in whatever pieces it comes."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.output.calls import CallPiece, Heard, TaggedCalls, read_whole

TAGS = ("<tool_call>", "</tool_call>")
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>'


def reader(single: bool = False) -> TaggedCalls:
    return TaggedCalls(TAGS, {"add", "mul"}, single)


def heard(text: str, single: bool = False) -> tuple[str, list[tuple[str, str]]]:
    told = read_whole(reader(single), text)
    assert all(call.id.startswith("call_") for call in told.calls)
    assert [call.index for call in told.calls] == list(range(len(told.calls)))
    return told.text, [(call.name, call.arguments) for call in told.calls]


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("", "", []),
        (" 1 < 2 \n", " 1 < 2 \n", []),
        (CALL, "", [("add", '{"a":2}')]),
        (f"I add.\n{CALL}\n", "I add.", [("add", '{"a":2}')]),
        (f"{CALL}\n{CALL.replace('add', 'mul')}", "", [("add", '{"a":2}'), ("mul", '{"a":2}')]),
        (f"{CALL} then {CALL}", " then", [("add", '{"a":2}')] * 2),
        ('<tool_call>{"name": "add"}</tool_call>', "", [("add", "{}")]),
        ('<tool_call>{"name":"add","arguments":"{}"}</tool_call>', "", [("add", "{}")]),
        ('<tool_call>{"name": "add", "arguments": {"a": 1}}', "", [("add", '{"a":1}')]),
        ('x <tool_call>{"name": "ad', 'x <tool_call>{"name": "ad', []),
        ('<tool_call>{"name": "pow"}</tool_call>.', '<tool_call>{"name": "pow"}</tool_call>.', []),
        ("<tool_call>[1]</tool_call>", "<tool_call>[1]</tool_call>", []),
        ('<tool_call>{"name": 5}</tool_call>', '<tool_call>{"name": 5}</tool_call>', []),
        (
            '<tool_call>{"name":"add","arguments":[]}</tool_call>',
            '<tool_call>{"name":"add","arguments":[]}</tool_call>',
            [],
        ),
        ("a </tool_call> b", "a </tool_call> b", []),
        ("a <tool_", "a <tool_", []),
    ],
)
def test_text_with_calls_is_divided(text, content, calls):
    assert heard(text) == (content, calls)


def test_single_call_ends_the_text():
    assert heard(f"a {CALL}\n{CALL} b", single=True) == ("a", [("add", '{"a":2}')])


PARTS = [CALL, "<tool_call>", "</tool_call>", "<tool", " ", "\n", "x", "{}", "é", CALL[:-5]]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(parts=st.lists(st.sampled_from(PARTS), max_size=7), cuts=st.lists(st.integers(0, 400)))
def test_pieces_of_any_sizes_give_the_whole(parts, cuts):
    text = "".join(parts)
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    one, told = reader(), Heard()
    for begin, end in pairwise(edges):
        told = told.joined(one.feed(text[begin:end]))
    told = told.joined(one.end())
    content, calls = heard(text)
    assert told.text == content
    assert [(call.name, call.arguments) for call in told.calls] == calls
    assert one.calls == len(calls)
    for _, arguments in calls:
        assert isinstance(json.loads(arguments), dict)


def test_texts_and_calls_keep_their_order():
    told = read_whole(reader(), f"a {CALL} b {CALL}{CALL}\n").parts
    seen = [part.index if isinstance(part, CallPiece) else part for part in told]
    assert seen == ["a", 0, " b", 1, 2]


def test_pieces_of_one_call_are_joined():
    class Slow(TaggedCalls):
        def feed(self, text: str) -> Heard:
            return Heard((CallPiece(0, '{"a"', "call_1", "add"), CallPiece(0, ":1}")))

    (call,) = read_whole(Slow(TAGS, {"add"}, False), "x").calls
    assert call == CallPiece(0, '{"a":1}', "call_1", "add")
