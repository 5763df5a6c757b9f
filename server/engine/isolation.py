"""One step of all groups, and who is to blame when it fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import structlog
import torch

from sampler.step import Network, StepResult, take_steps
from server.engine.events import Failed
from server.engine.group import Group

log = structlog.get_logger()

Result = TypeVar("Result")

GroupOutcome = StepResult | Failed
"""Of a group: what the step made of it, or why it came to nothing."""

OUT_OF_MEMORY = Failed("out_of_memory", "there is not enough memory for this request")
STEP_FAILED = Failed("internal", "the denoising step failed")


def step_groups(network: Network, groups: Sequence[Group]) -> list[tuple[Group, GroupOutcome]]:
    """Take one step of all groups together.

    Where that fails it is tried again in halves, and those in halves, until it is known whose
    request fails; the others go on as if nothing had been. A step changes nothing until it has
    gone well, and its random numbers belong to the requests, so it can be repeated. Halves need
    less memory too.

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
    # behind the handler: the traceback keeps the step's tensors alive
    if failed is OUT_OF_MEMORY and torch.cuda.is_available():
        torch.cuda.empty_cache()
    return [pair for half in split(groups) for pair in step_groups(network, half)]


def split(groups: Sequence[Group]) -> tuple[list[Group], list[Group]]:
    """Several groups in two parts, or both parts of one."""
    middle = len(groups) // 2
    if middle:
        return list(groups[:middle]), list(groups[middle:])
    (group,) = groups
    first = torch.arange(len(group.owners), device=group.batch.tokens.device)
    first = first < len(group.owners) // 2
    return [group.kept(first)], [group.kept(~first)]


def failure_of(error: Exception) -> Failed:
    """What a client is told of a step's error. PyTorch raises a plain ``RuntimeError`` where the
    machine's own memory is used up.
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
