"""Defaults of settings, shown in the help of the flags that set them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_args

from typer.models import ParameterInfo

from server.config import Settings


def showing_defaults(
    settings: type[Settings],
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator of commands: where a flag has the name of a setting, its help ends with the
    setting's default. The flag's own default stays None, so that it overrides nothing.
    """

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        for name, parameter in signature.parameters.items():
            if parameter.default is not None or name not in settings.model_fields:
                continue
            text = default_text(settings.model_fields[name].default)
            for info in get_args(parameter.annotation)[1:]:
                if text and isinstance(info, ParameterInfo):
                    info.show_default = text
        # Typer reads both; as strings they would be evaluated to new objects
        command.__dict__["__signature__"] = signature
        command.__annotations__ = {n: p.annotation for n, p in signature.parameters.items()}
        return command

    return decorated


def default_text(value: Any) -> str:
    """A default as it is written on a command line; empty for flags and where there is none."""
    if isinstance(value, bool) or value is None:
        return ""
    if isinstance(value, list):
        return " ".join(map(str, value))
    return str(value) if isinstance(value, str | int | float) else ""
