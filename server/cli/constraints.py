"""Constraints of ``xdlm generate``: a JSON schema or a regular expression."""

from __future__ import annotations

import json
from pathlib import Path

from models.checkpoints.load import Checkpoint
from sampler.constraints.region import Impossible, Region
from server.cli.common import stop
from server.constraints import spec
from server.constraints.compiler import BadConstraint, Constraints
from server.constraints.spec import Spec
from server.engine.events import GenerationRequest

MOST_SCHEMA = 1 << 20  # characters


def constraint_of(json_schema: str | None, regex: str | None) -> tuple[str, Spec] | None:
    """The flag that constrains the text, and its constraint; None where neither is given."""
    if json_schema is None:
        return None if regex is None else ("--regex", spec.regex(regex))
    if regex is not None:
        stop("give --json-schema or --regex, not both", 2)
    text = json_schema
    try:
        if not text.lstrip().startswith("{"):
            with Path(text).open(encoding="utf-8") as file:  # which may have no end
                text = file.read(MOST_SCHEMA + 1)
        if len(text) > MOST_SCHEMA:
            stop(f"--json-schema has more than {MOST_SCHEMA} characters", 2)
        return "--json-schema", spec.json_schema(json.loads(text))
    except OSError as error:
        stop(f"--json-schema: {json_schema}: {error.strerror}", 2)
    except (ValueError, RecursionError) as error:
        stop(f"--json-schema is no JSON: {error}", 2)


def constrained(
    loaded: Checkpoint, request: GenerationRequest, flag: str, constraint: Spec
) -> GenerationRequest:
    """A request for texts of a language."""
    if loaded.text is None or loaded.info.mask_id is None:
        stop(f"{flag} needs a model with a tokenizer and a mask", 2)
    try:
        automaton = Constraints().compiled(constraint, loaded).result()
    except BadConstraint as error:
        stop(f"{flag} {error}", 2)
    try:
        region = Region.of(automaton, request.tokens, request.editable)
    except Impossible:
        least, free = automaton.tokens_left[automaton.start], sum(request.editable)
        stop(f"no text of {flag} fits {free} positions; the shortest takes {least} tokens", 2)
    return request.constrained(region)
