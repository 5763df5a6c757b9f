"""Answers of POST /v1/responses, whole and as events, with the fields of OpenAI's API."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from server.api.schemas.responses.common import DiffusionUsage
from server.http.json_response import Answer

ItemStatus = Literal["in_progress", "completed", "incomplete"]


class OutputText(Answer):
    """The text of a message."""

    type: Literal["output_text"]
    text: str
    annotations: Annotated[list[str], Field(description="always empty")]
    logprobs: Annotated[list[str], Field(description="always empty")]


class OutputMessage(Answer):
    """A message of the answer."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    status: ItemStatus
    content: list[OutputText]


class OutputCall(Answer):
    """A call of a tool."""

    id: str
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: Annotated[str, Field(description="JSON of an object")]
    status: ItemStatus


class ReasoningText(Answer):
    """Thoughts of the model."""

    type: Literal["reasoning_text"]
    text: str


class OutputReasoning(Answer):
    """Thoughts before the answer."""

    id: str
    type: Literal["reasoning"]
    summary: Annotated[list[str], Field(description="always empty")]
    content: list[ReasoningText]
    encrypted_content: None
    status: ItemStatus


OutputItem = OutputMessage | OutputCall | OutputReasoning


class InputTokensDetails(Answer):
    """Prompt tokens by their origin."""

    cached_tokens: Annotated[int, Field(description="always 0: caching is not counted here")]
    cache_write_tokens: int


class OutputTokensDetails(Answer):
    """Generated tokens by their purpose."""

    reasoning_tokens: Annotated[int, Field(description="always 0: not counted apart")]


class ResponseUsage(Answer):
    """Token counts and the work of denoising."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int
    diffusion: DiffusionUsage


class IncompleteDetails(Answer):
    """Reason why an answer is not complete."""

    reason: Literal["max_output_tokens"]


class ResponseProblem(Answer):
    """The failure of a stream that had begun."""

    code: Literal["server_error"]
    message: str
    type: Annotated[str, Field(description="the code that errors of other routes have")]


class AnsweredText(Answer):
    """Settings of the text."""

    format: Annotated[dict[str, Any], Field(description="the body's")]


class ResponseObject(Answer):
    """The answer to an input."""

    id: str
    object: Literal["response"]
    created_at: Annotated[int, Field(description="seconds since 1970")]
    completed_at: int | None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    error: ResponseProblem | None
    incomplete_details: IncompleteDetails | None
    background: Literal[False]
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: None
    reasoning: None
    safety_identifier: None
    seed: Annotated[int, Field(description="the request's seed, or a random one")]
    service_tier: Literal["default"]
    store: Annotated[Literal[False], Field(description="nothing is stored")]
    temperature: float
    text: AnsweredText
    tool_choice: Annotated[Any, Field(description="the body's")]
    tools: Annotated[list[dict[str, Any]], Field(description="the body's")]
    top_logprobs: Literal[0]
    top_p: float
    truncation: Literal["disabled"]
    usage: ResponseUsage | None
    user: str | None


class NumberedEvent(Answer):
    """Fields of all events of a stream."""

    sequence_number: int


class ResponseEvent(NumberedEvent):
    """The state of the answer: when it is created, when it begins, and at its end."""

    type: Literal[
        "response.created",
        "response.in_progress",
        "response.completed",
        "response.incomplete",
        "response.failed",
    ]
    response: ResponseObject


class OutputItemEvent(NumberedEvent):
    """An item of the answer begins or is complete."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: int
    item: OutputItem


class ContentPartEvent(NumberedEvent):
    """A part of a message begins or is complete."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    item_id: str
    output_index: int
    content_index: int
    part: OutputText | ReasoningText


class TextDeltaEvent(NumberedEvent):
    """More text of a part."""

    type: Literal["response.output_text.delta"]
    item_id: str
    output_index: int
    content_index: int
    delta: str
    logprobs: list[str]


class TextDoneEvent(NumberedEvent):
    """The whole text of a part."""

    type: Literal["response.output_text.done"]
    item_id: str
    output_index: int
    content_index: int
    text: str
    logprobs: list[str]


class ThoughtsDeltaEvent(NumberedEvent):
    """More thoughts."""

    type: Literal["response.reasoning_text.delta"]
    item_id: str
    output_index: int
    content_index: int
    delta: str


class ThoughtsDoneEvent(NumberedEvent):
    """All thoughts of an item."""

    type: Literal["response.reasoning_text.done"]
    item_id: str
    output_index: int
    content_index: int
    text: str


class ArgumentsDeltaEvent(NumberedEvent):
    """More of the arguments of a call."""

    type: Literal["response.function_call_arguments.delta"]
    item_id: str
    output_index: int
    delta: str


class ArgumentsDoneEvent(NumberedEvent):
    """All arguments of a call."""

    type: Literal["response.function_call_arguments.done"]
    item_id: str
    output_index: int
    name: str
    arguments: str


RESPONSE_EVENTS = (
    ResponseEvent,
    OutputItemEvent,
    ContentPartEvent,
    TextDeltaEvent,
    TextDoneEvent,
    ThoughtsDeltaEvent,
    ThoughtsDoneEvent,
    ArgumentsDeltaEvent,
    ArgumentsDoneEvent,
)
