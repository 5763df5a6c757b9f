"""POST /v1/chat/completions: conversations, by the checkpoint's chat template."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, ClassVar, Self

from fastapi import APIRouter, Request, Response
from pydantic import Field, StrictBool, StrictInt

from models.tokenization.chat_template import ChatBusy, ChatError
from models.tokenization.spans import Token
from models.tokenization.template_tokens import Pieces
from sampler.logits.row_reader import MOST_LIKELY
from server.api.context import State
from server.api.jobs import limits
from server.api.jobs.chunks import ChunkJob
from server.api.jobs.formats import AnswerFormat, Head
from server.api.jobs.prompts import Prompt, check_bytes
from server.api.jobs.waiting import RETRY_READY, unless_gone
from server.api.routes.models import text_model
from server.api.schemas.messages import Message, Messages
from server.api.schemas.neutral import CHAT
from server.api.schemas.requests import FieldNames, TextFields
from server.api.schemas.responses.common import Usage
from server.api.schemas.responses.openapi import GENERATING, says
from server.api.schemas.responses.text import (
    ChatChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatLogProbs,
    ChatPiece,
    TopLogProb,
)
from server.api.schemas.responses.text import TokenLogProb as TokenEntry
from server.api.schemas.strict import StrictBody
from server.http.errors import ApiError
from server.http.json_body import JsonRoute
from server.http.offload import offload
from server.output.logprobs import TokenLogProb, finite
from server.output.records import FinishReason

router = APIRouter(prefix="/v1/chat/completions", tags=["text"], route_class=JsonRoute)


class ChatBody(TextFields):
    """The body of POST /v1/chat/completions."""

    neutral: ClassVar = CHAT
    names: ClassVar = FieldNames(prompt="messages")

    messages: Messages
    max_completion_tokens: StrictInt | None = None
    logprobs: StrictBool | None = None
    top_logprobs: StrictInt | None = Field(default=None, ge=0, le=MOST_LIKELY)

    @classmethod
    def like(cls, body: StrictBody, **own: Any) -> Self:
        """A checked body of another route as one of this; ``own`` are fields with other names."""
        same = {n: getattr(body, n) for n in type(body).model_fields if n in cls.model_fields}
        given = {name: value for name, value in {**same, **own}.items() if value is not None}
        return cls.model_construct(**given)

    def alternatives(self) -> int | None:
        """See ``TextFields``."""
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
        return (self.top_logprobs or 0) if self.logprobs else None


class ChatFormat(AnswerFormat[ChatChoice, ChatPiece]):
    """OpenAI's chat completion objects."""

    prefix: ClassVar = "chatcmpl-"
    tells_end: ClassVar = False

    def choice(
        self,
        index: int,
        text: str,
        reason: FinishReason,
        tokens: Sequence[TokenLogProb],
        samples: int,
        canvas: Sequence[int],
    ) -> ChatChoice:
        """See ``AnswerFormat``."""
        return {
            "index": index,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": _logprobs(tokens),
            "finish_reason": reason,
        }

    def piece(
        self,
        index: int,
        text: str,
        reason: FinishReason | None,
        tokens: Sequence[TokenLogProb],
        samples: int,
    ) -> ChatPiece:
        """See ``AnswerFormat``."""
        return {
            "index": index,
            "delta": {"content": text} if text else {},
            "logprobs": _logprobs(tokens),
            "finish_reason": reason,
        }

    def opening(self, index: int) -> ChatPiece:
        """See ``AnswerFormat``."""
        return {
            "index": index,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }

    def answer(self, head: Head, choices: list[ChatChoice], usage: Usage) -> ChatCompletion:
        """See ``AnswerFormat``."""
        return {
            "id": head.id,
            "object": "chat.completion",
            "created": head.created,
            "model": head.model,
            "choices": choices,
            "seed": head.seed,
            "usage": usage,
        }

    def chunk(self, head: Head, choices: list[ChatPiece]) -> ChatCompletionChunk:
        """See ``AnswerFormat``."""
        return {
            "id": head.id,
            "object": "chat.completion.chunk",
            "created": head.created,
            "model": head.model,
            "choices": choices,
            "seed": head.seed,
        }


def _logprobs(tokens: Sequence[TokenLogProb]) -> ChatLogProbs | None:
    """OpenAI's object for log-probabilities; None where there are none."""
    if not tokens:
        return None
    entries: list[TokenEntry] = []
    for token in tokens:
        entry = _entry(token.token, token.logprobs.log_p if token.logprobs else -math.inf)
        top = [_entry(other, log_p) for other, log_p in token.top]
        step = token.logprobs.step if token.logprobs else None
        entries.append({**entry, "top_logprobs": top, "step": step})
    return {"content": entries, "refusal": None}


def _entry(token: Token, log_p: float) -> TopLogProb:
    """OpenAI's object for a token; special tokens have no bytes."""
    return {
        "token": token.escaped if token.text is None else token.text,
        "logprob": finite(log_p),
        "bytes": None if token.data is None else list(token.data),
    }


async def ids_of_chat(
    request: Request,
    state: State,
    messages: Sequence[Message],
    to_fill: bool = False,
    field: str = "messages",
) -> list[int]:
    """Ids of a conversation by the checkpoint's template. Others are answered meanwhile, and no
    work is done for a client that hangs up.

    Args:
        request: of the client.
        state: the application's state.
        messages: the conversation.
        to_fill: the ids must leave room on the canvas.
        field: the body's field that errors name.

    Raises:
        ApiError: 400; 499 for a client that has disconnected; 503 when too many conversations wait.
    """
    tokenizer, canvas = state.checkpoint.tokenizer, state.checkpoint.info.max_length
    plain = [m.plain() for m in messages]
    limits.check_texts(field, [text for m in plain for text in m.values()], canvas)
    try:
        submitted = tokenizer.submit_chat(plain)
        pieces = await unless_gone(request, _waited(submitted))
    except ChatError as error:
        raise ApiError(400, str(error), param=field, code="chat_template") from None
    except ChatBusy as error:
        raise ApiError(
            503, str(error), code="chat_template_busy", retry_after=RETRY_READY
        ) from None
    texts = [text for text, _ in pieces]
    if to_fill:
        check_bytes(state, texts, field)
    limits.check_texts(field, texts, canvas)
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
    job = ChunkJob(state, body, ChatFormat(), [Prompt(ids)])
    return await job.respond(request, bool(body.stream))
