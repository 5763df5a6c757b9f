"""Kernels of the sampler with the sizes and questions that they are run with in tests."""

from __future__ import annotations

from functools import partial

import torch

from sampler import packing, philox
from sampler.logits import row_kernel, row_reader
from sampler.logits.row_kernel import Facts
from sampler.philox import Role
from tests.support.kernels import Compare

VOCABULARIES = (2, 3, 100, 127, 128, 129, 1000, 4454, 32000)
PUBLISHED = (126464, 151936, 157184, 262144)
"""Of LLaDA, Dream and SDAR, LLaDA2.x, DiffusionGemma."""


def questions(vocab: int) -> dict[str, Facts]:
    """Of each sampler, greedy or not, some with an end that may be impossible; and all at once."""
    mask, end = vocab - 1, 1 if vocab > 3 else -1
    draws = {"drawn": True, "draw_told": True}
    model = {"drawn": True, "tempered": True, "model_told": True}
    found = {
        "ancestral": {**draws},
        "ancestral tempered": {**draws, "tempered": True},
        "uniform noise": {**draws, "mask": -1},
        "greedy as drawn": {"draw_told": True},
        "topk": {**model, "end": end},
        "topk at 1": {**model, "tempered": False},
        "topk greedy": {"model_told": True, "end": end},
        "threshold entropy": {**model, "entropy": True},
        "threshold as drawn": {**model, "sure": True},
        "dream margin": {**model, "sure": True, "margin": True},
        "dream entropy": {**model, "sure": True, "spread": True},
        "several samplers": {**draws, **model, "end": end, "entropy": True},
        "everything": {
            **{**draws, **model, "end": end, "entropy": True},
            **{"sure": True, "margin": True, "spread": True},
        },
    }
    names = Facts.__dataclass_fields__
    nothing = dict.fromkeys(names, False) | {"mask": mask, "end": -1}
    return {about: Facts(**(nothing | facts)) for about, facts in found.items()}


def reads(vocabularies: tuple[int, ...]) -> dict[str, Compare]:
    """Comparisons of ``read_rows``."""
    return {
        f"read_rows-{vocab}-{about}": partial(row_kernel._compare, vocab, facts, row_reader._plain)
        for vocab in vocabularies
        for about, facts in questions(vocab).items()
    }


def others() -> dict[str, tuple[Compare, torch.dtype]]:
    """Comparisons of the other kernels, with the type that each is for."""
    roles = ((Role.BRANCH, Role.TOKEN), (Role.TOKEN,))
    numbers = {f"uniforms-{len(r)}": partial(philox._compare, r) for r in roles}
    return {
        "marked": (packing._compare_marked, torch.bool),
        "places": (packing._compare_places, torch.float64),
        "places-float32": (packing._compare_places, torch.float32),
        **{name: (compare, torch.int64) for name, compare in numbers.items()},
    }
