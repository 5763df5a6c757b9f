"""The decoder of server-sent events, on the forms that the HTML standard allows."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.sse import Decoder, Event, decode

STREAM = """: comment

id: 7-1
event: diffusion.step
data: {"a": "data: x"}

data:first
data:  second

retry: 10
event: empty

data
other: ignored

data: [DONE]

data: cut off"""
EVENTS = [
    Event('{"a": "data: x"}', "diffusion.step", "7-1"),
    Event("first\n second", id="7-1"),
    Event("", id="7-1"),
    Event("[DONE]", id="7-1"),
]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_events_of_a_stream_are_decoded_with_any_line_end(end):
    assert decode(STREAM.replace("\n", end)) == EVENTS
    assert decode(STREAM.replace("\n", end).encode()) == EVENTS


@given(st.lists(st.integers(0, len(STREAM) * 2)), st.sampled_from(["\n", "\r\n", "\r"]))
def test_pieces_of_any_size_give_the_same_events(cuts, end):
    stream = STREAM.replace("\n", end).encode()
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    decoder, found = Decoder(), []
    for start, stop in pairwise(places):
        found += decoder.feed(stream[start:stop])
    assert found == EVENTS


def test_characters_that_are_cut_between_pieces_are_whole():
    stream, decoder = "data: né\u2028 ✓\n\n".encode(), Decoder()
    found = [event for at in range(len(stream)) for event in decoder.feed(stream[at : at + 1])]
    assert found == [Event("né\u2028 ✓")]


def test_an_event_without_an_empty_line_after_it_is_not_complete():
    assert decode("data: x\n") == [] and decode("") == []
