"""Values with 95 % intervals that stay within the bounds of their quantity.

Each interval is Student's t for the mean of independent values, computed on a scale without bounds
(the logarithm for positive quantities, log-odds for shares) with the delta method, and mapped back.
Two values say nothing about their spread: their interval would be 12.7 standard errors wide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit
from scipy.stats import binomtest
from scipy.stats import t as student

LEVEL = 0.95
LEAST_VALUES = 3
"""Number of values from which there is an interval."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class Estimate:
    """A value and how certain it is.

    Attributes:
        interval: of 95 %, or None where there are too few values for one.
        at_least: whether the value is a lower bound.
        repeats: the figure of each repeat, where there are repeats.
    """

    value: float
    interval: Interval | None = None
    at_least: bool = False
    repeats: tuple[float, ...] = ()

    def times(self, factor: float) -> Estimate:
        """The same in another unit."""
        interval = self.interval and (factor * self.interval[0], factor * self.interval[1])
        apart = tuple(factor * value for value in self.repeats)
        return Estimate(factor * self.value, interval, self.at_least, apart)


def of_positive(value: float, apart: Sequence[float]) -> Interval | None:
    """Interval of a quantity that cannot be negative; both ends are above zero.

    Args:
        value: the estimate, for example of all values together.
        apart: independent values of the quantity.
    """
    found = _mean_and_width(apart)
    if found is None or found[0] <= 0 or value <= 0:
        return None
    factor = math.exp(found[1] / found[0])
    return value / factor, value * factor


def of_share(value: float, apart: Sequence[float]) -> Interval | None:
    """Interval of a mean of shares; both ends are between zero and one."""
    found = _mean_and_width(apart)
    if found is None or not 0 < found[0] < 1 or not 0 < value < 1:
        return None
    mean, width = found
    centre, width = float(logit(value)), width / (mean * (1 - mean))
    return float(expit(centre - width)), float(expit(centre + width))


def of_proportion(count: int, of: int) -> Interval | None:
    """Wilson's interval of a proportion of independent trials; within zero and one."""
    if of < LEAST_VALUES:
        return None
    found = binomtest(count, of).proportion_ci(LEVEL, method="wilson")
    return max(0.0, float(found.low)), min(1.0, float(found.high))  # rounding can leave them


def _mean_and_width(apart: Sequence[float]) -> tuple[float, float] | None:
    """Mean, and the half width of its interval by Student's t."""
    known = [value for value in apart if not math.isnan(value)]
    if len(known) < LEAST_VALUES:
        return None
    error = float(np.std(known, ddof=1)) / math.sqrt(len(known))
    return float(np.mean(known)), float(student.ppf(0.5 + LEVEL / 2, len(known) - 1)) * error
