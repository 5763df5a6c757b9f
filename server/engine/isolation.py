"""Takes a step of all parts, and isolates the requests that make it fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import structlog
import torch

from sampler.interface import Denoiser
from sampler.step import StepResult, TakeSteps
from server.engine.events import Failed
from server.engine.part import Part

log = structlog.get_logger()

Result = TypeVar("Result")

PartOutcome = StepResult | Failed
"""The result of a step for a part, or why the step failed for it."""

OUT_OF_MEMORY = Failed("out_of_memory", "there is not enough memory for this request")
STEP_FAILED = Failed("internal", "the denoising step failed")


def step_parts(
    network: Denoiser, parts: Sequence[Part], take_steps: TakeSteps
) -> list[tuple[Part, PartOutcome]]:
    """Take one step of all parts together, by ``take_steps``.

    If it fails, it is repeated for each half of the requests, recursively, until the failing
    request is found; the others are not affected. A failed step changes nothing, and random numbers
    depend on the request alone, so a step can be repeated. Halves also need less memory.

    Raises:
        torch.AcceleratorError: the device is lost; nothing runs on it any more.
    """
    try:
        results = take_steps(network, [(part.canvases.sampler, part.batch) for part in parts])
        return list(zip(parts, results, strict=True))
    except torch.AcceleratorError:
        raise
    except Exception as error:
        failed = failure_of(error)
        if len(parts) == 1 and parts[0].size == 1:
            log.exception("step failed", sampler=parts[0].canvases.name)
            return [(parts[0], failed)]
        log.warning("step failed; trying halves", error=type(error).__name__, code=failed.code)
    # after the handler: the traceback keeps the step's tensors alive
    if failed is OUT_OF_MEMORY and torch.cuda.is_available():
        torch.cuda.empty_cache()
    return [pair for half in split(parts) for pair in step_parts(network, half, take_steps)]


def split(parts: Sequence[Part]) -> tuple[list[Part], list[Part]]:
    """Half of the parts and the others, or the halves of a single one."""
    middle = len(parts) // 2
    if middle:
        return list(parts[:middle]), list(parts[middle:])
    first, second = parts[0].halves()
    return [first], [second]


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
