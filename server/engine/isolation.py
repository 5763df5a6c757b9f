"""Takes a step of all groups, and isolates the requests that make it fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import structlog
import torch

from sampler.step import Denoiser, StepResult, take_steps
from server.engine.events import Failed
from server.engine.group import Group

log = structlog.get_logger()

Result = TypeVar("Result")

GroupOutcome = StepResult | Failed
"""The result of a step for a group, or why the step failed for it."""

OUT_OF_MEMORY = Failed("out_of_memory", "there is not enough memory for this request")
STEP_FAILED = Failed("internal", "the denoising step failed")


def step_groups(network: Denoiser, groups: Sequence[Group]) -> list[tuple[Group, GroupOutcome]]:
    """Take one step of all groups together.

    If it fails, it is repeated for each half of the requests, recursively, until the failing
    request is found; the others are not affected. A failed step changes nothing, and random numbers
    depend on the request alone, so a step can be repeated. Halves also need less memory.

    Raises:
        torch.AcceleratorError: the device is lost; nothing runs on it any more.
    """
    try:
        results = take_steps(network, [(g.sampler, g.batch) for g in groups])
        return list(zip(groups, results, strict=True))
    except torch.AcceleratorError:
        raise
    except Exception as error:
        failed = failure_of(error)
        if len(groups) == 1 and len(groups[0].owners) == 1:
            log.exception("step failed", sampler=groups[0].owners[0].request.params.sampler)
            return [(groups[0], failed)]
        log.warning("step failed; trying halves", error=type(error).__name__, code=failed.code)
    # after the handler: the traceback keeps the step's tensors alive
    if failed is OUT_OF_MEMORY and torch.cuda.is_available():
        torch.cuda.empty_cache()
    return [pair for half in split(groups) for pair in step_groups(network, half)]


def split(groups: Sequence[Group]) -> tuple[list[Group], list[Group]]:
    """Split the groups into two parts, or a single group into two groups."""
    middle = len(groups) // 2
    if middle:
        return list(groups[:middle]), list(groups[middle:])
    (group,) = groups
    first = torch.arange(len(group.owners))
    first = first < len(group.owners) // 2
    return [group.kept(first)], [group.kept(~first)]


def failure_of(error: Exception) -> Failed:
    """The failure to report to a client for a step's error. PyTorch raises a plain
    ``RuntimeError`` where host memory is used up.
    """
    allocation = isinstance(error, MemoryError | torch.OutOfMemoryError)
    if allocation or "can't allocate memory" in str(error):
        return OUT_OF_MEMORY
    return STEP_FAILED


def each_alone(work: Callable[[], Result]) -> Result | Failed:
    """The result of work for one request; an error in it is that request's failure alone.

    Raises:
        torch.AcceleratorError: the device is lost; nothing runs on it any more.
    """
    try:
        return work()
    except torch.AcceleratorError:
        raise
    except Exception as error:
        log.exception("a request could not be ended")
        return failure_of(error)
