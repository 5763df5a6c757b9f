"""Noise kernels, schedules and samplers. Imports torch and numpy, and no sibling package."""

from sampler.registry import PARAMS, READERS, SAMPLERS, make_params

__all__ = ["PARAMS", "READERS", "SAMPLERS", "make_params"]
