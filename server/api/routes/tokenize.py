"""/tokenize, /detokenize and /tokenizer_info: the checkpoint's tokenizer."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import StrictBool, StrictStr

from server.api.context import State
from server.api.jobs import limits
from server.api.jobs.conversations import ids_of_chat
from server.api.jobs.limits import MOST_NAMED, MOST_WRITTEN
from server.api.jobs.prompts import checked_ids
from server.api.routes.models import text_model
from server.api.schemas.messages import Messages
from server.api.schemas.responses.models import Detokenized, TokenizerInfo, Tokens
from server.api.schemas.responses.openapi import ASKING, says
from server.api.schemas.strict import Ids, StrictBody
from server.api.schemas.template import Settings
from server.http.errors import ApiError
from server.http.json_body import JsonRoute
from server.http.json_response import JsonResponse
from server.http.offload import offload

router = APIRouter(tags=["tokens"], route_class=JsonRoute)


class TokenizeBody(StrictBody):
    """The body of POST /tokenize: a prompt, or messages."""

    model: str | None = None
    prompt: StrictStr | None = None
    messages: Messages | None = None
    chat_template_kwargs: Settings | None = None
    add_special_tokens: StrictBool = True
    return_token_strs: StrictBool = False


class DetokenizeBody(StrictBody):
    """The body of POST /detokenize."""

    model: str | None = None
    tokens: Ids


@router.post(
    "/tokenize",
    summary="Tokenize a text or a conversation",
    response_model=None,
    responses=says(Tokens, *ASKING),
)
async def tokenize(body: TokenizeBody, request: Request) -> JsonResponse:
    """Returns the token ids of a prompt, or of a conversation by the checkpoint's chat template."""
    state = text_model(State.of(request), body.model)
    tokenizer = state.checkpoint.tokenizer
    if (body.prompt is None) == (body.messages is None):
        raise ApiError(400, "give a prompt or messages", param="prompt")
    size = len(await request.body())
    if body.messages is not None:
        ids = await ids_of_chat(request, state, body.messages, settings=body.chat_template_kwargs)
    else:
        prompt, canvas = body.prompt or "", state.checkpoint.info.max_length
        limits.check_texts("prompt", [prompt], canvas)
        ids = await offload(size, tokenizer.encode, prompt, body.add_special_tokens)
    return await offload(size, _tokens, state, ids, body.return_token_strs)


def _tokens(state: State, ids: list[int], named: bool) -> JsonResponse:
    """The response with ids, and with ``named`` the text of each.

    Raises:
        ApiError: 400 for too many texts of ids.
    """
    answer: Tokens = {
        "count": len(ids),
        "max_model_len": state.checkpoint.info.max_length,
        "tokens": ids,
    }
    most = max(MOST_NAMED, state.checkpoint.info.max_length)
    if named and len(ids) > most:
        what = "the number of token texts"
        raise limits.exceeded("return_token_strs", what, len(ids), most)
    if named:
        answer["token_strs"] = state.checkpoint.tokenizer.labels(ids)
    return JsonResponse(answer)


@router.post(
    "/detokenize",
    summary="Detokenize token ids",
    response_model=None,
    responses=says(Detokenized, *ASKING),
)
async def detokenize(body: DetokenizeBody, request: Request) -> JsonResponse:
    """Returns the text of token ids; special tokens are skipped."""
    state = text_model(State.of(request), body.model)
    most = limits.most_text(state.checkpoint.info.max_length)
    if len(body.tokens) > most:
        raise limits.exceeded("tokens", "the number of tokens", len(body.tokens), most)
    return await offload(len(await request.body()), _text, state, body.tokens)


def _text(state: State, ids: list[int]) -> JsonResponse:
    """The response with the text of ids.

    Raises:
        ApiError: 400 for ids outside the vocabulary, or too long a text.
    """
    tokenizer, canvas = state.checkpoint.tokenizer, state.checkpoint.info.max_length
    checked_ids(state, ids, "tokens", masks=None)
    size, most = sum(len(tokenizer.data(i)) for i in ids), MOST_WRITTEN * limits.most_text(canvas)
    if size > most:
        raise limits.exceeded("tokens", "the number of bytes of their text", size, most)
    return JsonResponse(Detokenized(prompt=tokenizer.decode(ids)))


@router.get(
    "/tokenizer_info",
    summary="Special tokens and the chat template",
    response_model=None,
    responses=says(TokenizerInfo, 401, 500),
)
async def tokenizer_info(request: Request) -> TokenizerInfo:
    """Returns special tokens and the chat template, as vLLM's route of this name."""
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
