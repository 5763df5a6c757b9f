"""Deciding tokens: noise kernels, schedules and samplers. Imports torch and no sibling package."""

from collections.abc import Callable

from sampler.ancestral import Ancestral
from sampler.gidd import Gidd
from sampler.remdm import Remdm
from sampler.step import Sampler
from sampler.threshold import Threshold
from sampler.topk import TopK

SAMPLERS: dict[str, Callable[[int, int, tuple[int, ...]], Sampler]] = {
    "ancestral": Ancestral,
    "topk": TopK,
    "threshold": Threshold,
    "gidd": Gidd,
    "remdm": Remdm,
}
"""Samplers by name: (vocab_size, mask_id, ends) -> sampler. One more is a file and a line here."""
