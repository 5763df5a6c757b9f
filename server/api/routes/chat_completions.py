"""POST /v1/chat/completions: conversations, by the checkpoint's chat template."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, ClassVar

from fastapi import APIRouter, Request, Response
from pydantic import Field, StrictBool, StrictInt

from models.tokenization.chat_template import ChatBusy, ChatError
from models.tokenization.spans import Token
from models.tokenization.template_tokens import Pieces
from sampler.logits.row_reader import MOST_LIKELY
from server.api.context import State
from server.api.jobs import limits
from server.api.jobs.prompts import Prompt, check_bytes
from server.api.jobs.text import Generation
from server.api.jobs.waiting import RETRY_READY, unless_gone
from server.api.routes.models import text_model
from server.api.schemas.messages import Message, Messages
from server.api.schemas.neutral import CHAT
from server.api.schemas.requests import TextFields
from server.api.schemas.responses.openapi import GENERATING, says
from server.api.schemas.responses.text import ChatCompletion, ChatCompletionChunk
from server.http.errors import ApiError
from server.http.json_body import JsonRoute
from server.http.offload import offload
from server.output.logprobs import TokenLogProb, finite

router = APIRouter(prefix="/v1/chat/completions", tags=["text"], route_class=JsonRoute)


class ChatBody(TextFields):
    """The body of POST /v1/chat/completions."""

    neutral: ClassVar = CHAT

    messages: Messages
    max_completion_tokens: StrictInt | None = None
    logprobs: StrictBool | None = None
    top_logprobs: StrictInt | None = Field(default=None, ge=0, le=MOST_LIKELY)

    def alternatives(self) -> int | None:
        """See ``TextFields``."""
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
        return (self.top_logprobs or 0) if self.logprobs else None


class ChatForm:
    """OpenAI's chat completion objects."""

    prefix: ClassVar = "chatcmpl"
    whole: ClassVar = "chat.completion"
    chunk: ClassVar = "chat.completion.chunk"
    tells_end: ClassVar = False

    @staticmethod
    def choice(
        index: int, text: str, reason: str | None, logprobs: dict[str, Any] | None
    ) -> dict[str, Any]:
        """See ``Form``."""
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}

    @staticmethod
    def delta(
        index: int, text: str, reason: str | None, logprobs: dict[str, Any] | None
    ) -> dict[str, Any]:
        """See ``Form``."""
        delta = {"content": text} if text else {}
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}

    @staticmethod
    def opening(index: int) -> dict[str, Any] | None:
        """See ``Form``."""
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    @staticmethod
    def logprobs(tokens: Sequence[TokenLogProb]) -> dict[str, Any]:
        """See ``Form``."""
        entries = []
        for token in tokens:
            entry = _entry(token.token, token.told.log_p if token.told else -math.inf)
            top = [_entry(other, log_p) for other, log_p in token.top]
            step = token.told.step if token.told else None
            entries.append({**entry, "top_logprobs": top, "step": step})
        return {"content": entries, "refusal": None}


def _entry(token: Token, log_p: float) -> dict[str, Any]:
    """OpenAI's object for a token; special tokens have no bytes."""
    return {
        "token": token.escaped if token.text is None else token.text,
        "logprob": finite(log_p),
        "bytes": None if token.data is None else list(token.data),
    }


async def ids_of_chat(
    request: Request, state: State, messages: Sequence[Message], to_fill: bool = False
) -> list[int]:
    """Ids of a conversation by the checkpoint's template. Others are answered meanwhile, and no
    work is done for a client that hangs up.

    With ``to_fill`` they must leave room on the canvas.

    Raises:
        ApiError: 400; 499 for a client that is gone; 503 when the template has no time.
    """
    tokenizer, canvas = state.checkpoint.tokenizer, state.checkpoint.info.max_length
    told = [m.plain() for m in messages]
    limits.check_texts("messages", [text for m in told for text in m.values()], canvas)
    try:
        submitted = tokenizer.submit_chat(told)
        pieces = await unless_gone(request, _waited(submitted))
    except ChatError as error:
        raise ApiError(400, str(error), param="messages", code="chat_template") from None
    except ChatBusy as error:
        raise ApiError(
            503, str(error), code="chat_template_busy", retry_after=RETRY_READY
        ) from None
    texts = [text for text, _ in pieces]
    if to_fill:
        check_bytes(state, texts, "messages")
    limits.check_texts("messages", texts, canvas)
    size = sum(len(text.encode()) for text in texts)
    return await offload(size, tokenizer.encode_pieces, pieces)


async def _waited(submitted: Future[Pieces]) -> Pieces:
    return await asyncio.wrap_future(submitted)


@router.post(
    "",
    summary="Create a chat completion",
    responses=says(ChatCompletion, *GENERATING, stream=ChatCompletionChunk),
)
async def chat(body: ChatBody, request: Request) -> Response:
    """Generates the next message of a conversation, by the checkpoint's chat template."""
    state = text_model(State.of(request), body.model)
    if body.max_completion_tokens is not None:
        if body.max_tokens not in (None, body.max_completion_tokens):
            raise ApiError(
                400, "max_completion_tokens and max_tokens differ", param="max_completion_tokens"
            )
        body.max_tokens = body.max_completion_tokens
    ids = await ids_of_chat(request, state, body.messages, to_fill=True)
    return await Generation(state, body, ChatForm, [Prompt(ids)]).respond(
        request, bool(body.stream)
    )
