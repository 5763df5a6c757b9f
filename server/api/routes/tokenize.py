"""/tokenize, /detokenize and /tokenizer_info: text to ids and back, as the checkpoint has it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import Field, StrictBool, StrictInt, StrictStr

from server.api.context import State
from server.api.jobs.prompts import checked_ids
from server.api.routes.chat_completions import Message, ids_of_chat
from server.api.routes.models import text_model
from server.api.schemas.requests import StrictBody
from server.api.schemas.responses.models import Detokenized, TokenizerInfo, Tokens
from server.api.schemas.responses.openapi import ASKING, says
from server.http.errors import ApiError
from server.http.json_body import JsonRoute
from server.http.offload import aside

router = APIRouter(tags=["tokens"], route_class=JsonRoute)


class TokenizeBody(StrictBody):
    """The body of POST /tokenize: a prompt, or messages."""

    model: str | None = None
    prompt: StrictStr | None = None
    messages: list[Message] | None = Field(default=None, min_length=1)
    add_special_tokens: StrictBool = True
    return_token_strs: StrictBool = False


class DetokenizeBody(StrictBody):
    """The body of POST /detokenize."""

    model: str | None = None
    tokens: list[StrictInt]


@router.post(
    "/tokenize",
    summary="Text to ids",
    response_model=None,
    responses=says(Tokens, *ASKING),
)
async def tokenize(body: TokenizeBody, request: Request) -> dict[str, Any]:
    """Ids of a prompt, or of a conversation by the checkpoint's template."""
    state = text_model(State.of(request), body.model)
    tokenizer = state.checkpoint.tokenizer
    if (body.prompt is None) == (body.messages is None):
        raise ApiError(400, "give a prompt or messages", param="prompt")
    if body.messages is not None:
        ids = await ids_of_chat(state, body.messages)
    else:
        size = len(await request.body())
        ids = await aside(size, tokenizer.encode, body.prompt or "", body.add_special_tokens)
    answer = {
        "count": len(ids),
        "max_model_len": state.checkpoint.info.max_length,
        "tokens": ids,
    }
    if body.return_token_strs:
        answer["token_strs"] = [tokenizer.piece(id_) for id_ in ids]
    return answer


@router.post(
    "/detokenize",
    summary="Ids to text",
    response_model=None,
    responses=says(Detokenized, *ASKING),
)
async def detokenize(body: DetokenizeBody, request: Request) -> dict[str, Any]:
    """Text of ids; special tokens leave no trace."""
    state = text_model(State.of(request), body.model)
    ids = checked_ids(state, body.tokens, "tokens", masks=None)
    return {"prompt": state.checkpoint.tokenizer.decode(ids)}


@router.get(
    "/tokenizer_info",
    summary="Special tokens and the chat template",
    response_model=None,
    responses=says(TokenizerInfo, 401, 500),
)
async def tokenizer_info(request: Request) -> dict[str, Any]:
    """What a client needs that renders conversations itself, as vLLM names it."""
    checkpoint = text_model(State.of(request), None).checkpoint
    tokenizer, info = checkpoint.tokenizer, checkpoint.info

    def text(id_: Any) -> str | None:
        is_id = isinstance(id_, int) and 0 <= id_ < info.vocab_size
        return tokenizer.piece(id_) if is_id else None

    return {
        "bos_token": text(checkpoint.defaults.get("bos_token_id")),
        "eos_token": text(info.eos_id),
        "pad_token": text(checkpoint.defaults.get("pad_token_id")),
        "mask_token": text(info.mask_id),
        "model_max_length": info.max_length,
        "chat_template": None if tokenizer.chat is None else tokenizer.chat.source,
    }
