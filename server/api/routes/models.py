"""GET /v1/models: the served models, their properties and request parameters."""

from __future__ import annotations

from fastapi import APIRouter, Request

from models.checkpoints.load import Checkpoint
from models.images.layout import ImageShape
from models.tokenization.tokenizer import TextTokenizer
from sampler import READERS, SAMPLERS
from sampler.registry import DEFAULT_SAMPLER
from server.api.context import State
from server.api.schemas.responses.common import ImageGrid, MaskToken
from server.api.schemas.responses.models import Model, Models
from server.api.schemas.responses.openapi import says
from server.api.schemas.sampling import REQUESTABLE, described
from server.engine.engine import Engine
from server.engine.request_params import ModelKind, default_length, default_of, defaults_of
from server.http.described_route import DescribedRoute
from server.http.errors import ApiError

router = APIRouter(prefix="/v1/models", tags=["models"], route_class=DescribedRoute)


TEXT_ROUTES = "/v1/completions"
IMAGE_ROUTE = "/v1/images/generations"


def text_model(state: State, name: str | None) -> State:
    """The text model that a request names, or the first.

    Raises:
        ApiError: 404 for an unknown name; 400 for an image model.
    """
    return _chosen(state, name, images=False)


def image_model(state: State, name: str | None) -> State:
    """The image model that a request names, or the first; see ``text_model``."""
    return _chosen(state, name, images=True)


def any_model(state: State, name: str | None) -> State:
    """The model that a request names, or the first of all.

    Raises:
        ApiError: 404 for an unknown name.
    """
    if name is None:
        return state
    try:
        return state.of_model(name)
    except KeyError:
        raise ApiError(
            404, f"model {name[:64]!r} does not exist", param="model", code="model_not_found"
        ) from None


def _chosen(state: State, name: str | None, images: bool) -> State:
    of_kind = [n for n, e in state.engines.items() if makes_images(e) == images]
    if name is None and of_kind:
        return state.of_model(of_kind[0])
    chosen = any_model(state, name)
    if makes_images(chosen.engine) != images:
        does, route = ("writes text", TEXT_ROUTES) if images else ("makes images", IMAGE_ROUTE)
        raise ApiError(
            400,
            f"model {chosen.checkpoint.info.name!r} {does}: POST {route}",
            param="model",
            code="wrong_route",
        )
    return chosen


def makes_images(engine: Engine) -> bool:
    """Whether the engine's model generates images."""
    return engine.checkpoint.info.image is not None


def describe(state: State) -> Model:
    """OpenAI's model object with an additional ``diffusion`` object."""
    info, limits = state.checkpoint.info, state.settings
    sampler = state.defaults.get("sampler", DEFAULT_SAMPLER)
    defaults = defaults_of(state.defaults, sampler)
    images, tokenizer = info.image is not None, state.checkpoint.text
    return {
        "id": info.name,
        "object": "model",
        "created": state.created,
        "owned_by": "xdlm-serve",
        "diffusion": {
            "family": info.family,
            "parameters": info.parameters,
            "dtype": info.dtype,
            "adapter": state.checkpoint.adapter or None,
            "samplers": ModelKind.of(info).samplers,
            "sampler": sampler,
            "fields": {n: list(o) for n, o in READERS.items() if n in REQUESTABLE}
            | {"trajectory_guesses": [n for n, s in SAMPLERS.items() if s.params.reads_open_masks]},
            "request_parameters": [described(name, p) for name, p in REQUESTABLE.items()],
            "steps": default_of(defaults, "steps"),
            "mixing_ratio": default_of(defaults, "mixing_ratio"),
            "temperature": default_of(defaults, "temperature"),
            "top_p": default_of(defaults, "top_p"),
            "guidance_scale": default_of(defaults, "guidance_scale"),
            "max_tokens": None if images else default_length(defaults, info.max_length),
            "chat": tokenizer is not None and tokenizer.chat is not None,
            "chat_system": _shows_system(tokenizer),
            "limits": {"steps": limits.max_steps, "choices": limits.max_choices},
            "vocab_size": info.vocab_size,
            "mask_token": mask_of(state.checkpoint),
            "max_canvas": info.max_length,
            "block_length": defaults.get("block_length"),
            "classes": info.classes,
            "class_names": list(info.class_names),
            "image": None if info.image is None else grid_of(info.image),
        },
    }


def _shows_system(tokenizer: TextTokenizer | None) -> bool | None:
    """Whether the chat template shows system messages; None where that is unknown."""
    return tokenizer.chat.shows_system if tokenizer and tokenizer.chat else None


def mask_of(checkpoint: Checkpoint) -> MaskToken | None:
    """The mask token of a model; None if it has none."""
    mask = checkpoint.info.mask_id
    return None if mask is None else {"id": mask, "text": checkpoint.piece(mask)}


def grid_of(shape: ImageShape) -> ImageGrid:
    """Size and encoding of a model's images, as a response object."""
    height, width = shape.size
    return {
        "width": width,
        "height": height,
        "channels": shape.channels,
        "tokens": shape.tokens,
        "levels": shape.levels,
    }


@router.get("", summary="List models", response_model=None, responses=says(Models, 401, 500))
async def models(request: Request) -> Models:
    """Lists all models; requests without a model use the first that fits their route."""
    state = State.of(request)
    return {"object": "list", "data": [describe(state.of_model(name)) for name in state.engines]}


@router.get(
    "/{name:path}",
    summary="Describe a model",
    response_model=None,
    responses=says(Model, 401, 404, 500),
)
async def model(name: str, request: Request) -> Model:
    """Returns one model by its name."""
    return describe(any_model(State.of(request), name))
