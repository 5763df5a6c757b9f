"""POST /v1/chat/completions: conversations, by the checkpoint's chat template."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, ClassVar, Self

from fastapi import APIRouter, Request, Response
from pydantic import Field, StrictBool, StrictInt

from models.tokenization.spans import Token
from sampler.logits.row_reader import MOST_LIKELY
from server.api.context import State
from server.api.jobs.chunks import ChunkJob
from server.api.jobs.constraints import Constraint, compiled
from server.api.jobs.conversations import ids_of_chat
from server.api.jobs.formats import AnswerFormat, Head
from server.api.jobs.prompts import Prompt
from server.api.jobs.tools import ToolPlan, plan_of
from server.api.routes.models import text_model
from server.api.schemas.messages import Messages
from server.api.schemas.neutral import CHAT
from server.api.schemas.requests import FieldNames, TextFields
from server.api.schemas.responses.common import Usage
from server.api.schemas.responses.openapi import GENERATING, says
from server.api.schemas.responses.text import (
    AnsweredMessage,
    CallDelta,
    ChatChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatLogProbs,
    ChatPiece,
    Delta,
    TopLogProb,
)
from server.api.schemas.responses.text import TokenLogProb as TokenEntry
from server.api.schemas.strict import StrictBody
from server.api.schemas.template import Settings
from server.api.schemas.tools import ToolChoice, Tools
from server.http.errors import ApiError
from server.http.json_body import JsonRoute
from server.output.calls import CallPiece, CallReader, read_whole
from server.output.logprobs import TokenLogProb, finite
from server.output.records import FinishReason

router = APIRouter(prefix="/v1/chat/completions", tags=["text"], route_class=JsonRoute)


class ChatBody(TextFields):
    """The body of POST /v1/chat/completions."""

    neutral: ClassVar = CHAT
    names: ClassVar = FieldNames(prompt="messages")

    messages: Messages
    chat_template_kwargs: Settings | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: StrictBool | None = None
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
    tells_thoughts: ClassVar = True

    def __init__(self, plan: ToolPlan) -> None:
        """``plan``: the calls that texts may have."""
        self._plan = plan
        self._readers: defaultdict[int, CallReader] = defaultdict(plan.reader)  # of streams

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
        heard = read_whole(self._plan.reader(), text)
        content = None if heard.calls and not heard.text else heard.text
        message: AnsweredMessage = {"role": "assistant", "content": content, "refusal": None}
        if heard.calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in heard.calls
            ]
        return {
            "index": index,
            "message": message,
            "logprobs": _logprobs(tokens),
            "finish_reason": "tool_calls" if heard.calls else reason,
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
        reader = self._readers[index]
        heard = reader.feed(text)
        if reason is not None:
            heard = heard.joined(reader.end())
        delta: Delta = {"content": heard.text} if heard.text else {}
        if heard.calls:  # one entry for each: clients join those of different chunks only
            delta["tool_calls"] = [_call(piece) for piece in heard.whole().calls]
        return {
            "index": index,
            "delta": delta,
            "logprobs": _logprobs(tokens),
            "finish_reason": "tool_calls" if reason and reader.calls else reason,
        }

    def with_thoughts(self, choice: ChatChoice, thoughts: str) -> ChatChoice:
        """See ``ChoiceFormat``."""
        message: AnsweredMessage = {**choice["message"], "reasoning_content": thoughts}
        return {**choice, "message": message}

    def thought(self, index: int, text: str) -> ChatPiece:
        """See ``ChoiceFormat``."""
        return {
            "index": index,
            "delta": {"reasoning_content": text},
            "logprobs": None,
            "finish_reason": None,
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


def _call(piece: CallPiece) -> CallDelta:
    """OpenAI's object for more of a call."""
    if not piece.id:
        return {"index": piece.index, "function": {"arguments": piece.arguments}}
    return {
        "index": piece.index,
        "id": piece.id,
        "type": "function",
        "function": {"name": piece.name, "arguments": piece.arguments},
    }


def _logprobs(tokens: Sequence[TokenLogProb]) -> ChatLogProbs | None:
    """OpenAI's object for log-probabilities; None where there are none."""
    if not tokens:
        return None
    entries: list[TokenEntry] = []
    for token in tokens:
        entry = _entry(token.token, token.logprobs.log_p if token.logprobs else -math.inf)
        top = [_entry(other, log_p) for other, log_p in token.top]
        step, entropy = None, None
        if token.logprobs:
            step, entropy = token.logprobs.step, token.logprobs.entropy
        entries.append({**entry, "top_logprobs": top, "step": step, "entropy": entropy})
    return {"content": entries, "refusal": None}


def _entry(token: Token, log_p: float) -> TopLogProb:
    """OpenAI's object for a token; special tokens have no bytes."""
    return {
        "token": token.escaped if token.text is None else token.text,
        "logprob": finite(log_p),
        "bytes": None if token.data is None else list(token.data),
    }


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
    plan, ids, constraint = await read_chat(request, state, body)
    job = ChunkJob(state, body, ChatFormat(plan), [Prompt(ids)], constraint)
    return await job.respond(request, bool(body.stream))


async def read_chat(
    request: Request, state: State, body: ChatBody
) -> tuple[ToolPlan, list[int], Constraint | None]:
    """The tools of a body, the ids of its conversation (see ``ids_of_chat``), and the constraint of
    its texts: its own, that of a call, or both.

    Raises:
        ApiError: 400 naming the field.
    """
    single = body.parallel_tool_calls is False
    found = body.constraint()
    tokenizer = state.checkpoint.tokenizer
    plan = plan_of(tokenizer, body.tools, body.tool_choice, single, found)
    if plan.calls and body.diffusing:
        raise ApiError(400, "diffusing is not supported with tools", param="diffusing")
    ids = await ids_of_chat(
        request,
        state,
        body.messages,
        to_fill=True,
        field=body.names.prompt,
        tools=plan.shown,
        settings=body.chat_template_kwargs,
    )
    if (spec := plan.spec()) is None:
        return plan, ids, None
    named = ["tools"] if plan.forced else []
    named += [] if found is None else [found[0]]
    return plan, ids, await compiled(request, state, " with ".join(named), spec)
