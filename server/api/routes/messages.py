"""POST /v1/messages: conversations in the form of Anthropic's API."""

from __future__ import annotations

from typing import Annotated, ClassVar

from fastapi import APIRouter, Request, Response
from pydantic import Field, StrictInt

from server.api.context import State
from server.api.jobs.messages import MessageJob
from server.api.jobs.prompts import Prompt
from server.api.routes.chat_completions import ChatBody, read_chat
from server.api.routes.models import text_model
from server.api.schemas.constraints import OutputFormat
from server.api.schemas.messages import Message
from server.api.schemas.neutral import MESSAGES, Neutral
from server.api.schemas.requests import DialogueFields, FieldNames, StopString
from server.api.schemas.responses.anthropic_messages import MESSAGE_EVENTS, AnthropicMessage
from server.api.schemas.responses.openapi import GENERATING, says
from server.api.schemas.strict import StrictPart
from server.api.schemas.turns import Blocks, Choosing, CustomTools, Turns
from server.http.anthropic import ROUTE, AnthropicError
from server.http.errors import ApiError
from server.http.json_body import JsonRoute

router = APIRouter(prefix=ROUTE, tags=["text"], route_class=JsonRoute)


class AsChat(ChatBody):
    """The body as one of a chat, whose errors have the names of this route."""

    names: ClassVar = FieldNames(prompt="messages", stop="stop_sequences")
    format_field: ClassVar = "output_config.format"


class OutputConfig(StrictPart):
    """Settings of the output."""

    neutral: ClassVar = {
        "effort": Neutral(("high",), "steps says how much work an answer is"),
        "task_budget": Neutral((), "max_tokens says how long an answer is"),
    }

    format: OutputFormat | None = None


class MessagesBody(DialogueFields):
    """The body of POST /v1/messages."""

    neutral: ClassVar = MESSAGES

    messages: Turns
    system: Blocks | None = None
    max_tokens: StrictInt | None = None
    stop_sequences: Annotated[list[StopString], Field(fail_fast=True)] | None = None

    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    tools: CustomTools | None = None
    tool_choice: Choosing | None = None

    def chat(self) -> AsChat:
        """The same as the body of a chat; the system text is its first message.

        Raises:
            ApiError: 400 for a conversation that ends with the assistant's message.
        """
        if self.messages[-1].role == "assistant":
            raise ApiError(
                400,
                "messages: the last one is the assistant's; an answer that has begun is not "
                "continued",
                param="messages",
                code="invalid_value",
            )
        messages: list[Message] = []
        if self.system:
            messages.append(Message.model_construct(role="system", content=self.system))
        for turn in self.messages:
            turn.add_to(messages)
        choosing = self.tool_choice
        single = choosing is not None and choosing.disable_parallel_tool_use
        form = None if self.output_config is None else self.output_config.format
        if self.output_format is not None and form is not None:
            raise ApiError(
                400,
                "output_format and output_config.format exclude each other",
                param="output_format",
            )
        return AsChat.like(
            self,
            messages=messages,
            stop=self.stop_sequences,
            tools=[tool.tool() for tool in self.tools or []],
            tool_choice=None if choosing is None else choosing.choice(),
            parallel_tool_calls=not single,
            response_format=self.output_format if form is None else form,
        )


@router.post(
    "",
    summary="Create a message",
    responses=says(AnthropicMessage, *GENERATING, stream=MESSAGE_EVENTS, error=AnthropicError),
)
async def message(body: MessagesBody, request: Request) -> Response:
    """Generates the next message of a conversation, by the checkpoint's chat template."""
    state = text_model(State.of(request), body.model)
    chat = body.chat()
    plan, ids, constraint = await read_chat(request, state, chat)
    job = MessageJob(state, chat, [Prompt(ids)], plan, constraint, request.scope["request_id"])
    return await job.respond(request, bool(body.stream))
