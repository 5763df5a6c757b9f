"""Patterns of an adapter's config: what they match, and what they may take."""

from __future__ import annotations

import re
import time

import pytest

from models.checkpoints.module_patterns import first_matches

NAMES = [f"model.layers.{i}.{part}" for i in (0, 1, 10) for part in ("self_attn.q_proj", "mlp.up")]


@pytest.mark.parametrize(
    "patterns",
    [
        ["q_proj", "up"],
        ["1.mlp.up", r"layers\.0\.mlp.up", "proj"],
        [r"(0|10)\.mlp\.up", r".*q_proj"],
        ["mlp", r"layers\.\d+\.self_attn\.[qk]_proj"],
        [],
    ],
)
def test_the_first_pattern_that_matches_the_end_of_a_name_is_found(patterns):
    wanted = [
        next((i for i, p in enumerate(patterns) if re.match(rf"(.*\.)?({p})$", name)), None)
        for name in NAMES
    ]
    assert first_matches(patterns, NAMES) == wanted


@pytest.mark.parametrize("pattern", [r"((\w|\.)+)+!", r"(\w?){30}!" + r"\w?" * 60 + "!"])
def test_a_pattern_of_exponential_time_is_refused_after_its_cpu_time(pattern):
    began = time.monotonic()
    with pytest.raises(ValueError, match="2 patterns takes more than 1 s"):
        first_matches(["a", pattern], NAMES, seconds=1)
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("patterns", [["a)", "b"], ["a*)"], ["(" * 5000 + ")" * 5000], ["*"]])
def test_what_is_no_expression_is_refused_in_words(patterns):
    with pytest.raises(ValueError, match=r"parenthesis|recursion|nothing to repeat"):
        first_matches(patterns, NAMES)
