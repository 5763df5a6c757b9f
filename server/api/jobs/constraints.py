"""Constraints of a body, compiled for its model."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from dataclasses import dataclass

from fastapi import Request

from sampler.constraints.region import Impossible, Region
from sampler.constraints.token_automaton import TokenAutomaton
from server.api.context import State
from server.api.jobs.waiting import RETRY_READY, unless_gone
from server.api.schemas.constraints import top_of
from server.api.schemas.requests import TextFields
from server.constraints.compiler import BadConstraint, ConstraintBusy
from server.constraints.spec import Spec
from server.engine.events import GenerationRequest
from server.http.errors import ApiError


@dataclass(frozen=True)
class Constraint:
    """A compiled constraint.

    Attributes:
        field: of the body, for errors.
        automaton: of the model's tokens.
    """

    field: str
    automaton: TokenAutomaton

    def applied_to(self, request: GenerationRequest, length: str) -> GenerationRequest:
        """A request for texts of the language.

        Args:
            request: the request.
            length: the field with the number of positions, for errors.

        Raises:
            ApiError: 400, no text of the language fits its positions.
        """
        try:
            region = Region.of(self.automaton, request.tokens, request.editable)
        except Impossible:
            raise self._refused(request, length) from None
        return request.constrained(region)

    def _refused(self, request: GenerationRequest, length: str) -> ApiError:
        free = sum(request.editable)
        shortest = int(self.automaton.tokens_left[self.automaton.start])
        first = request.editable.index(True) if free else len(request.editable)
        if all(request.editable[first:]):
            most = "at least" if self.automaton.ends else "other numbers, the least is"
            message = f"{length} is {free}; a text of {self.field} takes {most} {shortest} tokens"
            return ApiError(400, message, param=length, code="constraint_too_long")
        message = (
            f"{self.field}: no text has the given tokens with {free} positions to fill between; "
            f"without them the shortest takes {shortest} tokens"
        )
        return ApiError(400, message, param=top_of(self.field), code="constraint_impossible")


async def constraint_of(request: Request, state: State, body: TextFields) -> Constraint | None:
    """The compiled constraint of a body, if it has one. Others are answered meanwhile.

    Raises:
        ApiError: 400 naming the field; 499 for a client that has disconnected; 503 when too many
            constraints wait.
    """
    found = body.constraint()
    return None if found is None else await compiled(request, state, *found)


async def compiled(request: Request, state: State, field: str, spec: Spec) -> Constraint:
    """A constraint, compiled for the model. ``field`` names it in errors.

    Raises:
        ApiError: see ``constraint_of``.
    """
    if state.checkpoint.info.mask_id is None:
        raise ApiError(400, f"{field} needs a model with a mask", param=top_of(field))
    try:
        future = state.constraints.compiled(spec, state.checkpoint)
        automaton = future.result() if future.done() else await unless_gone(request, _of(future))
    except BadConstraint as error:
        raise ApiError(
            400, f"{field} {error}", param=top_of(field), code="invalid_constraint"
        ) from None
    except ConstraintBusy as error:
        raise ApiError(503, str(error), code="constraint_busy", retry_after=RETRY_READY) from None
    return Constraint(field, automaton)


async def _of(future: Future[TokenAutomaton]) -> TokenAutomaton:
    return await asyncio.wrap_future(future)


def check_with(field: str, body: TextFields) -> None:
    """Refuse fields that exclude a constraint.

    Raises:
        ApiError: 400 naming one.
    """
    for given, name in ((body.stop, body.names.stop), (body.ignore_eos, "ignore_eos")):
        if given:
            raise ApiError(400, f"{name} is not supported with {field}", param=name)
