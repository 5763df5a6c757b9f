"""Deciding tokens: noise kernels, schedules and samplers. Imports torch and no sibling package."""

from collections.abc import Callable

from sampler.ancestral import Ancestral
from sampler.step import Sampler

SAMPLERS: dict[str, Callable[[int, int | None], Sampler]] = {"ancestral": Ancestral}
"""Samplers by name: (vocab_size, mask_id) -> sampler. Adding one is a file and a line here."""
