"""POST /v1/responses: conversations in the form of OpenAI's newer API."""

from __future__ import annotations

from typing import Annotated, ClassVar

from fastapi import APIRouter, Request, Response
from pydantic import Field, StrictBool, StrictInt, StrictStr

from server.api.context import State
from server.api.jobs.prompts import Prompt
from server.api.jobs.responses import Echoed, ResponseJob
from server.api.routes.chat_completions import ChatBody, read_chat
from server.api.routes.models import text_model
from server.api.schemas.constraints import TextFormat
from server.api.schemas.conversation import FlatChoice, FlatTools, Input, choice_of, messages_of
from server.api.schemas.messages import Message
from server.api.schemas.neutral import RESPONSES, Neutral
from server.api.schemas.requests import DialogueFields, FieldNames
from server.api.schemas.responses.openai_responses import RESPONSE_EVENTS, ResponseObject
from server.api.schemas.responses.openapi import GENERATING, says
from server.api.schemas.strict import StrictPart
from server.api.schemas.tools import Mode
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
        "verbosity": Neutral(("medium",), "max_output_tokens says how long an answer is"),
    }

    format: TextFormat | None = None


class StreamSettings(StrictPart):
    """Settings of the stream."""

    neutral: ClassVar = {"include_obfuscation": Neutral((False,), "events are not padded")}


class AsChat(ChatBody):
    """The body as one of a chat, whose errors have the names of this route."""

    names: ClassVar = FieldNames(prompt="input", length="max_output_tokens")
    format_field: ClassVar = "text.format"


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
    tools: FlatTools | None = None
    tool_choice: Mode | FlatChoice | None = None
    parallel_tool_calls: StrictBool | None = None

    def chat(self) -> AsChat:
        """The same as the body of a chat; the instructions are its first message."""
        messages = messages_of(self.input)
        if self.instructions:
            first = Message.model_construct(role="system", content=self.instructions)
            messages = [first, *messages]
        return AsChat.like(
            self,
            messages=messages,
            max_tokens=self.max_output_tokens,
            tools=[tool.tool() for tool in self.tools or []],
            tool_choice=choice_of(self.tool_choice),
            response_format=None if self.text is None else self.text.format,
        )

    def echoed(self) -> Echoed:
        """Fields that the answer repeats."""
        choice, form = self.tool_choice, None if self.text is None else self.text.format
        return Echoed(
            format={"type": "text"} if form is None else form.flat(),
            instructions=self.instructions,
            metadata=self.metadata or {},
            tools=[tool.model_dump(exclude_none=True) for tool in self.tools or []],
            tool_choice=choice.model_dump() if isinstance(choice, FlatChoice) else choice or "auto",
            parallel_tool_calls=self.parallel_tool_calls is not False,
        )


@router.post(
    "",
    summary="Create a response",
    responses=says(ResponseObject, *GENERATING, stream=RESPONSE_EVENTS),
)
async def respond(body: ResponsesBody, request: Request) -> Response:
    """Generates the answer to a text or a conversation, by the checkpoint's chat template."""
    state = text_model(State.of(request), body.model)
    chat = body.chat()
    plan, ids, constraint = await read_chat(request, state, chat)
    job = ResponseJob(state, chat, [Prompt(ids)], plan, constraint, body.echoed())
    return await job.respond(request, bool(body.stream))
