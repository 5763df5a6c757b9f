"""Intervals: how often they hold the truth, and that they keep within bounds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from loadtest.intervals import Estimate, of_positive, of_proportion, of_share

TRIALS = 4000
# Standard error of a coverage of 0.95 over the trials: 0.0034. The bounds below lie 4 of them and
# more from the exact coverages, so a test fails by chance once in more than 10,000 seeds.


@pytest.mark.parametrize("spread", [0.05, 0.3])
@pytest.mark.parametrize("count", [3, 5, 12])
def test_positive_interval_of_repeats_holds_the_mean_in_95_percent(count, spread):
    chance = np.random.default_rng(count)
    shape = spread**-2
    held = 0
    for values in chance.gamma(shape, 10 / shape, (TRIALS, count)):
        found = of_positive(float(values.mean()), values.tolist())
        assert found is not None
        held += found[0] <= 10 <= found[1]
    assert 0.925 < held / TRIALS < 0.975


@pytest.mark.parametrize(("a", "b"), [(2, 20), (5, 5), (20, 2)])
def test_share_interval_of_answers_holds_the_mean_in_95_percent(a, b):
    chance = np.random.default_rng(a)
    held = 0
    for values in chance.beta(a, b, (TRIALS, 24)):
        found = of_share(float(values.mean()), values.tolist())
        assert found is not None
        held += found[0] <= a / (a + b) <= found[1]
    assert 0.925 < held / TRIALS < 0.975


@pytest.mark.parametrize("truth", [0.5, 0.8, 0.95])
def test_proportion_interval_holds_the_truth_in_95_percent(truth):
    """Counts are whole, so the exact coverage differs with the truth: here from 0.93 to 0.97."""
    counts = np.random.default_rng(1).binomial(48, truth, TRIALS)
    held = 0
    for count, times in zip(*np.unique(counts, return_counts=True), strict=True):
        found = of_proportion(int(count), 48)
        held += int(times) if found is not None and found[0] <= truth <= found[1] else 0
    assert 0.91 < held / TRIALS < 0.985


values_of = st.lists(st.floats(1e-3, 1e3), min_size=3, max_size=12)


@given(values_of)
def test_positive_interval_is_above_zero_and_around_its_value(values):
    value = float(np.mean(values))
    found = of_positive(value, values)
    assert found is not None and 0 < found[0] <= value * (1 + 1e-9)
    assert value * (1 - 1e-9) <= found[1] < math.inf


@given(st.lists(st.floats(0, 1), min_size=3, max_size=12))
@example([0.0, 0.0, 1e-308])
def test_share_interval_is_within_zero_and_one(values):
    value = float(np.mean(values))
    found = of_share(value, values)
    if found is None:
        assert value in (0, 1) or not 0 < float(np.mean(values)) < 1
    else:
        assert 0 <= found[0] <= value + 1e-9 and value - 1e-9 <= found[1] <= 1


@given(st.integers(3, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_proportion_interval_is_within_zero_and_one_and_never_empty(pair):
    found = of_proportion(*pair)
    assert found is not None and 0 <= found[0] < found[1] <= 1


@pytest.mark.parametrize("of", range(3, 60))
def test_proportion_interval_of_none_or_all_prints_without_a_sign(of):
    for count in (0, of):
        found = of_proportion(count, of)
        assert found is not None and found[1] <= 1
        assert "-" not in f"{100 * found[0]:.1f} {100 * found[1]:.1f}"


@pytest.mark.parametrize("of", [of_positive, of_share])
def test_two_values_have_no_interval(of):
    assert of(0.5, [0.4, 0.6]) is None and of(0.5, [0.4, 0.6, math.nan]) is None
    assert of_proportion(1, 2) is None and of(0.0, [0.0, 0.0, 0.0]) is None


def test_positive_interval_of_three_values_is_students():
    """Of 9, 10, 11: deviation 1, and Student's t for two degrees of freedom is 4.3027."""
    relative = 4.3027 / math.sqrt(3) / 10
    assert of_positive(10, [9, 10, 11]) == pytest.approx(
        (10 * math.exp(-relative), 10 * math.exp(relative)), rel=1e-4
    )


def test_estimate_in_another_unit_keeps_its_proportions():
    found = Estimate(2.0, (1.0, 3.0), True, (1.5, 2.5)).times(1e3)
    assert found == Estimate(2000.0, (1000.0, 3000.0), True, (1500.0, 2500.0))
