"""POST /v1/responses: conversations in the form of OpenAI's newer API."""

from __future__ import annotations

from typing import Annotated, ClassVar

from fastapi import APIRouter, Request, Response
from pydantic import Field, StrictInt, StrictStr

from server.api.context import State
from server.api.jobs.prompts import Prompt
from server.api.jobs.responses import ResponseJob
from server.api.routes.chat_completions import ChatBody, ids_of_chat
from server.api.routes.models import text_model
from server.api.schemas.conversation import Input
from server.api.schemas.messages import Message
from server.api.schemas.neutral import NO_GRAMMAR, RESPONSES, Neutral
from server.api.schemas.requests import DialogueFields, FieldNames
from server.api.schemas.responses.openai_responses import RESPONSE_EVENTS, ResponseObject
from server.api.schemas.responses.openapi import GENERATING, says
from server.api.schemas.strict import StrictPart
from server.http.json_body import JsonRoute

router = APIRouter(prefix="/v1/responses", tags=["text"], route_class=JsonRoute)

Metadata = Annotated[
    dict[
        Annotated[StrictStr, Field(max_length=64)],
        Annotated[StrictStr, Field(max_length=512)],
    ],
    Field(max_length=16),
]


class TextSettings(StrictPart):
    """Settings of the text."""

    neutral: ClassVar = {
        "format": Neutral(({"type": "text"},), NO_GRAMMAR),
        "verbosity": Neutral(("medium",), "max_output_tokens says how long an answer is"),
    }


class StreamSettings(StrictPart):
    """Settings of the stream."""

    neutral: ClassVar = {"include_obfuscation": Neutral((False,), "events are not padded")}


class AsChat(ChatBody):
    """The body as one of a chat, whose errors have the names of this route."""

    names: ClassVar = FieldNames(prompt="input", length="max_output_tokens")


class ResponsesBody(DialogueFields):
    """The body of POST /v1/responses."""

    neutral: ClassVar = RESPONSES

    input: Input
    instructions: StrictStr | None = None
    max_output_tokens: StrictInt | None = None
    metadata: Metadata | None = None
    text: TextSettings | None = None
    stream_options: StreamSettings | None = None
    user: str | None = None

    def chat(self) -> AsChat:
        """The same as the body of a chat; the instructions are its first message."""
        messages = [item.message() for item in self.input]
        if self.instructions:
            first = Message.model_construct(role="system", content=self.instructions)
            messages = [first, *messages]
        return AsChat.like(self, messages=messages, max_tokens=self.max_output_tokens)


@router.post(
    "",
    summary="Create a response",
    responses=says(ResponseObject, *GENERATING, stream=RESPONSE_EVENTS),
)
async def respond(body: ResponsesBody, request: Request) -> Response:
    """Generates the answer to a text or a conversation, by the checkpoint's chat template."""
    state = text_model(State.of(request), body.model)
    chat = body.chat()
    ids = await ids_of_chat(request, state, chat.messages, to_fill=True, field=chat.names.prompt)
    job = ResponseJob(
        state, chat, [Prompt(ids)], instructions=body.instructions, metadata=body.metadata
    )
    return await job.respond(request, bool(body.stream))
