"""GET /v1/models: what is served, and what its requests may choose."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from sampler import SAMPLERS
from sampler.params import SamplingParams
from server.errors import ApiError
from server.routes.answers import Model, Models, says
from server.state import State

router = APIRouter(prefix="/v1/models", tags=["models"])


def check_model(state: State, name: str | None) -> str:
    """The served model's name; a request may leave it out.

    Raises:
        ApiError: 404 for any other name.
    """
    served = state.checkpoint.info.name
    if name not in (None, served):
        raise ApiError(
            404, f"model {name[:64]!r} does not exist", param="model", code="model_not_found"
        )
    return served


def describe(state: State) -> dict[str, Any]:
    """OpenAI's model object with a ``diffusion`` object beside."""
    info, defaults = state.checkpoint.info, state.defaults
    return {
        "id": info.name,
        "object": "model",
        "created": state.created,
        "owned_by": "xdlm-serve",
        "diffusion": {
            "family": info.family,
            "parameters": info.parameters,
            "dtype": info.dtype,
            "samplers": list(SAMPLERS),
            "steps": defaults.get("steps", SamplingParams.steps),
            "mixing_ratio": defaults.get("mixing_ratio", SamplingParams.mixing_ratio),
            "temperature": defaults.get("temperature", SamplingParams.temperature),
            "top_p": defaults.get("top_p", SamplingParams.top_p),
            "vocab_size": info.vocab_size,
            "mask_token": {
                "id": info.mask_id,
                "text": state.checkpoint.tokenizer.piece(info.mask_id),
            },
            "max_canvas": info.max_length,
            "block_length": defaults.get("block_length"),
        },
    }


@router.get("", summary="List models", response_model=None, responses=says(Models, 401, 500))
async def models(request: Request) -> dict[str, Any]:
    """All models: there is one."""
    return {"object": "list", "data": [describe(State.of(request))]}


@router.get(
    "/{name:path}",
    summary="Describe a model",
    response_model=None,
    responses=says(Model, 401, 404, 500),
)
async def model(name: str, request: Request) -> dict[str, Any]:
    """One model by its name."""
    check_model(State.of(request), name)
    return describe(State.of(request))
