"""Values of parameters that are refused."""

from __future__ import annotations

import pytest

from sampler import make_params
from sampler.params import InvalidParam


@pytest.mark.parametrize("steps", ["4" * 100_000, tuple(range(50_000)), 10**400])
def test_a_refusal_is_short_however_long_the_value_is(steps):
    with pytest.raises(InvalidParam, match=r"^steps must .* got .{100}") as refused:
        make_params(sampler="topk", steps=steps)
    assert len(str(refused.value)) <= 500


@pytest.mark.parametrize(
    ("length", "words"),
    [(None, "sub_block_length needs block_length"), (7, "must divide block_length, 7; got 2")],
)
def test_a_part_of_a_block_needs_a_block_that_it_divides(length, words):
    with pytest.raises(InvalidParam, match=words):
        make_params(sampler="threshold", block_length=length, sub_block_length=2)
