"""What the routes answer, for the specification alone: nothing is built or checked with these."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

FinishReason = Literal["stop", "length"]


class Answer(BaseModel):
    """An object that has the fields it says and no others."""

    model_config = ConfigDict(extra="forbid")


class Problem(Answer):
    """What was wrong."""

    message: str = Field(description="for people; of a limit, what was asked and what it is")
    type: Literal[
        "invalid_request_error", "authentication_error", "rate_limit_error", "server_error"
    ]
    param: str | None = Field(description="the field that is to blame")
    code: str | None = Field(description="for programs: limit_exceeded, queue_full, …")


class Error(Answer):
    """Any answer but a good one."""

    error: Problem


class Health(Answer):
    """The process answers."""

    status: Literal["ok"]


class Ready(Answer):
    """Requests are taken."""

    status: Literal["ready"]


class Version(Answer):
    """The build."""

    version: str


class DiffusionUsage(Answer):
    """What denoising took; of several choices the counts add up, steps and times are the most."""

    steps_asked: int = Field(default=0, description="with latency_budget_ms only")
    steps: int
    forwards: int = Field(description="evaluations of the network")
    positions: int = Field(description="that were to fill")
    tokens_per_forward: float
    unmasked: int
    refined: int
    remasked: int
    queue_ms: float
    denoise_ms: float


class Usage(Answer):
    """Tokens, and what they took."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    diffusion: DiffusionUsage


class UsageSoFar(Usage):
    """The same of a stream: before its end the tokens so far, and nothing of what they took."""

    diffusion: DiffusionUsage = Field(default=None, description="once all has ended")  # type: ignore[assignment]


class TextLogProbs(Answer):
    """Log-probabilities of a completion's tokens, in nats, one entry a token."""

    tokens: list[str]
    token_logprobs: list[float | None] = Field(description="null for a token that was given")
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]
    steps: list[int | None] = Field(description="at which it was written; null for a prompt's")
    prompt_samples: int = Field(default=0, description="behind the prompt's, with echo")


class TopLogProb(Answer):
    """A likely token."""

    token: str
    logprob: float
    bytes: list[int] | None = Field(description="null for a part of a character")


class TokenLogProb(TopLogProb):
    """A token of a chat answer."""

    top_logprobs: list[TopLogProb]
    step: int | None = Field(description="at which it was written")


class ChatLogProbs(Answer):
    """Log-probabilities of a chat answer's tokens."""

    content: list[TokenLogProb]
    refusal: None


class Change(Answer):
    """A position that a step changed."""

    pos: int = Field(description="on the canvas, prompt included")
    op: Literal["unmask", "refine", "remask"]
    id: int
    text: str
    was: int | None = Field(description="the id before; null for a mask")
    conf: float = Field(description="the model's probability of the new token; 0 for noise")


class Snapshot(Answer):
    """The whole canvas."""

    ids: list[int]
    texts: list[str]


class StepRecord(Answer):
    """One step of a trajectory."""

    v: Literal[1]
    step: int
    steps: int
    block: int
    masked: int = Field(description="masks left on the canvas")
    changes: list[Change]
    final: bool = Field(default=False, description="the call that removes the remaining noise")
    snapshot: Snapshot = Field(default=None, description="on the first record, and every 16")  # type: ignore[assignment]


class DiffusionMeta(Answer):
    """Beside the canvas as text."""

    step: int
    steps: int
    masked: int


class TextChoice(Answer):
    """One text."""

    index: int
    text: str
    logprobs: TextLogProbs | None
    finish_reason: FinishReason


class TextPiece(TextChoice):
    """More of one text."""

    finish_reason: FinishReason | None  # type: ignore[assignment]


class AnsweredMessage(Answer):
    """The assistant's message."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(Answer):
    """One answer."""

    index: int
    message: AnsweredMessage
    logprobs: ChatLogProbs | None
    finish_reason: FinishReason


class Delta(Answer):
    """What is new."""

    role: Literal["assistant"] = Field(default="assistant", description="on the first piece")
    content: str = ""


class ChatPiece(Answer):
    """More of one answer."""

    index: int
    delta: Delta
    logprobs: ChatLogProbs | None
    finish_reason: FinishReason | None


class Generated(Answer):
    """What all generated objects have."""

    id: str
    created: int = Field(description="seconds since 1970")
    model: str
    seed: int = Field(description="the request's, or the one that was drawn for it")


class Completion(Generated):
    """Texts behind prompts."""

    object: Literal["text_completion"]
    choices: list[TextChoice]
    usage: Usage


class Chunk(Generated):
    """What all pieces of streams have beside their choices."""

    usage: UsageSoFar = Field(
        default=None,
        description="on the last chunk with include_usage, on all with continuous_usage_stats",
    )  # type: ignore[assignment]
    diffusion: StepRecord = Field(default=None, description="with trajectory: delta")  # type: ignore[assignment]
    diffusion_meta: DiffusionMeta = Field(default=None, description="with diffusing: true")  # type: ignore[assignment]


class CompletionChunk(Chunk):
    """A piece of a stream of texts."""

    object: Literal["text_completion"]
    choices: list[TextPiece]


class ChatCompletion(Generated):
    """Answers to a conversation."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage


class ChatCompletionChunk(Chunk):
    """A piece of a stream of answers."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatPiece]


class Picture(Answer):
    """An image."""

    b64_json: str = Field(description="the file, in base64")


class ImageTokens(Answer):
    """There is no text in it, nor images."""

    text_tokens: int
    image_tokens: int


class ImageUsage(Answer):
    """Tokens of the images, and what they took."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: ImageTokens
    diffusion: DiffusionUsage


class Images(Answer):
    """Images of a class."""

    created: int
    data: list[Picture]
    size: str = Field(description="width x height in pixels")
    background: Literal["opaque"]
    output_format: Literal["png", "webp"]
    usage: ImageUsage
    model: str
    seed: int


class ImageStreamEvent(Answer):
    """An image, on its way (partial_image) or finished (completed)."""

    type: Literal["image_generation.partial_image", "image_generation.completed"]
    b64_json: str
    created_at: int
    size: str
    quality: Literal["auto"]
    background: Literal["opaque"]
    output_format: Literal["png", "webp"]
    index: int = Field(description="of the image, where there are several")
    seed: int
    partial_image_index: int = Field(default=0, description="of a partial image")
    usage: ImageUsage = Field(default=None, description="of a finished one")  # type: ignore[assignment]


class MaskToken(Answer):
    """The token that stands for nothing yet."""

    id: int
    text: str


class ImageGrid(Answer):
    """The images of a model."""

    width: int = Field(description="in pixels")
    height: int
    channels: int
    tokens: Literal["grey levels", "vq", "bytes"]
    levels: int = Field(description="ids below this stand in images")


class RequestLimits(Answer):
    """What one request may ask for."""

    steps: int
    choices: int


class DiffusionModel(Answer):
    """What a model is, and what its requests get where they do not choose."""

    family: str
    parameters: int
    dtype: str
    samplers: list[str]
    sampler: str = Field(description="the one that requests get")
    fields: dict[str, list[str]] = Field(
        description="which samplers read a field; those that are not here are read by all"
    )
    steps: int
    mixing_ratio: float
    temperature: float
    top_p: float
    guidance_scale: float
    max_tokens: int | None = Field(description="on an empty canvas; null for images")
    chat: bool = Field(description="it has a chat template")
    limits: RequestLimits
    vocab_size: int
    mask_token: MaskToken
    max_canvas: int = Field(description="positions, prompt included")
    block_length: int | None = Field(description="null is the whole canvas")
    classes: int = Field(description="labels that it takes, from 0; 0 for text")
    class_names: list[str] = Field(description="in the order of the labels, where they have any")
    image: ImageGrid | None = Field(description="what it makes; null for text")


class Model(Answer):
    """A model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    diffusion: DiffusionModel


class Models(Answer):
    """All of them."""

    object: Literal["list"]
    data: list[Model]


class ScoredToken(Answer):
    """One token's share."""

    id: int
    text: str
    nats: float


class ScoreUsage(Answer):
    """Tokens, and what they took."""

    prompt_tokens: int = Field(description="that were given")
    scored_tokens: int
    total_tokens: int
    forwards: int = Field(description="evaluations of the network")


class Score(Answer):
    """An upper bound of a text's negative log-likelihood, estimated."""

    id: str
    object: Literal["score"]
    created: int
    model: str
    estimator: Literal["nelbo", "llada"]
    samples: int
    mixing_ratio: float
    seed: int
    nats: float
    standard_error: float | None = Field(description="of nats; null for a single sample")
    nats_per_token: float
    perplexity: float
    tokens: list[ScoredToken]
    usage: ScoreUsage


class Tokens(Answer):
    """Ids of a text."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] = Field(default=[], description="with return_token_strs")


class Detokenized(Answer):
    """Text of ids."""

    prompt: str


class TokenizerInfo(Answer):
    """What a client needs that renders conversations itself."""

    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    mask_token: str | None
    model_max_length: int
    chat_template: str | None


ERRORS = {
    400: "a field has a bad value, or asks for more than a limit",
    401: "the API key is missing or wrong",
    404: "there is no such model",
    413: "the body is too large",
    429: "the queue is full; see Retry-After",
    500: "our fault; the message has the request's id",
    503: "loading or shutting down; see Retry-After",
}
ASKING = (400, 401, 404, 413, 500)
"""Errors of a route that takes a body."""
GENERATING = (*ASKING, 429, 503)
"""Errors of a route that queues work."""


STREAMED: tuple[type[BaseModel], ...] = (CompletionChunk, ChatCompletionChunk, ImageStreamEvent)
"""What events of streams hold; the specification names them beside the routes' own answers."""


def says(
    model: type[BaseModel], *errors: int, stream: type[BaseModel] | None = None
) -> dict[int | str, dict[str, Any]]:
    """``responses`` of a route: its answer, its errors, and what each event of its stream holds
    (one of ``STREAMED``).
    """
    good: dict[str, Any] = {"model": model, "description": (model.__doc__ or "").strip()}
    if stream is not None:
        kinds = [{"$ref": f"#/components/schemas/{m.__name__}"} for m in (stream, Error)]
        chunk = {"contentMediaType": "application/json", "contentSchema": {"anyOf": kinds}}
        data = {"type": "string", "if": {"not": {"const": "[DONE]"}}, "then": chunk}
        event = {"type": "object", "properties": {"data": data}, "required": ["data"]}
        good["content"] = {"text/event-stream": {"itemSchema": event}}
    failed = {status: {"model": Error, "description": ERRORS[status]} for status in errors}
    return {200: good, **failed}
