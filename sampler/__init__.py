"""Deciding tokens: noise kernels, schedules and samplers. Imports torch and no sibling package."""

from collections.abc import Callable

from sampler.samplers.ancestral import Ancestral
from sampler.samplers.gidd import Gidd
from sampler.samplers.remdm import Remdm
from sampler.samplers.threshold import Threshold
from sampler.samplers.topk import TopK
from sampler.step import Sampler

SAMPLERS: dict[str, Callable[[int, int, tuple[int, ...]], Sampler]] = {
    "ancestral": Ancestral,
    "topk": TopK,
    "threshold": Threshold,
    "gidd": Gidd,
    "remdm": Remdm,
}
"""Samplers by name: (vocab_size, mask_id, ends) -> sampler. One more is a file and a line here."""
