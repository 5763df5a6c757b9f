"""Sampling parameters as flags of a command, made from the samplers' own declarations."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from typing import Annotated, Any

import typer

from sampler import PARAMS, READERS, SAMPLERS
from sampler.params import InvalidParam, Param
from sampler.registry import DEFAULT_SAMPLER

TYPES: dict[str, Any] = {
    **{"number": float, "integer": int, "flag": bool, "choice": str, "schedule": str}
}
SAMPLER_FLAG = Annotated[
    str | None,
    typer.Option(
        help=f"one of {', '.join(SAMPLERS)}", show_default=f"the checkpoint's, or {DEFAULT_SAMPLER}"
    ),
]


def with_sampling_flags(
    command: Callable[..., None], without: Collection[str] = ()
) -> Callable[..., None]:
    """A command with ``--sampler`` and one flag for each parameter.

    Args:
        command: takes given flags as the mapping ``chosen``.
        without: parameters that get no flag.
    """
    declared = {n: p for n, p in PARAMS.items() if p.requestable and n not in without}
    own = [
        p.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for p in inspect.signature(command, eval_str=True).parameters.values()
        if p.name != "chosen"
    ]
    flags = [
        inspect.Parameter(
            "sampler", inspect.Parameter.KEYWORD_ONLY, annotation=SAMPLER_FLAG, default=None
        ),
        *(_flag(name, param) for name, param in declared.items()),
    ]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        chosen = {name: given.pop(name) for name in ("sampler", *declared)}
        chosen = {n: v for n, v in chosen.items() if v is not None}
        command(**given, chosen=chosen)

    parameters = [*own, *flags]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _flag(name: str, declared: Param) -> inspect.Parameter:
    readers = ", ".join(READERS.get(name, ()))
    text = f"{readers}: {declared.doc}" if readers else declared.doc
    if declared.kind == "choice":
        text += f" ({', '.join(declared.words)})"
    spelled = f"--{name.replace('_', '-')}"
    if declared.kind == "flag":
        spelled += f"/--no-{spelled[2:]}"
    given = declared.default is not None and name != "seed"  # which is random
    shown = f"the checkpoint's, or {declared.default}" if given else True
    option = typer.Option(spelled, help=text, show_default=shown)
    annotation = Annotated[TYPES[declared.kind] | None, option]
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=None
    )


def parsed(chosen: dict[str, Any]) -> dict[str, Any]:
    """Flags with schedules, written as integers with commas between, as tuples.

    Raises:
        InvalidParam: a schedule is neither its word nor integers.
    """
    return {name: _parsed(name, value) for name, value in chosen.items()}


def _parsed(name: str, value: Any) -> Any:
    declared = PARAMS.get(name)
    if declared is None or declared.kind != "schedule" or value in declared.words:
        return value
    try:
        return tuple(int(entry) for entry in value.split(","))
    except ValueError:
        raise InvalidParam(name, "must be integers with commas between") from None
