"""Conversations as token ids, by the checkpoint's chat template."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from fastapi import Request

from models.tokenization.chat_template import ChatBusy, ChatError
from models.tokenization.template_tokens import Pieces
from models.tokenization.template_tools import texts_in
from models.tokenization.tokenizer import TextTokenizer
from server.api.context import State
from server.api.jobs import limits
from server.api.jobs.prompts import check_bytes
from server.api.jobs.tools import check_messages
from server.api.jobs.waiting import RETRY_READY, unless_gone
from server.api.schemas.messages import Message
from server.api.schemas.template import Settings
from server.http.errors import ApiError
from server.http.offload import offload


async def ids_of_chat(
    request: Request,
    state: State,
    messages: Sequence[Message],
    to_fill: bool = False,
    field: str = "messages",
    tools: Sequence[Mapping[str, Any]] = (),
    settings: Settings | None = None,
) -> list[int]:
    """Ids of a conversation by the checkpoint's template. Others are answered meanwhile, and no
    work is done for a client that hangs up.

    Args:
        request: of the client.
        state: the application's state.
        messages: the conversation.
        to_fill: the ids must leave room on the canvas.
        field: the body's field that errors name.
        tools: as the template gets them.
        settings: variables of the template.

    Raises:
        ApiError: 400; 499 for a client that has disconnected; 503 when too many conversations wait.
    """
    tokenizer, canvas = state.checkpoint.tokenizer, state.checkpoint.info.max_length
    check_messages(tokenizer, messages, field)
    plain = [m.plain() for m in messages]
    limits.check_texts(field, texts_in([*plain, *tools]), canvas)
    settings = {name: value for name, value in (settings or {}).items() if value is not None}
    _check_settings(tokenizer, settings)
    try:
        submitted = tokenizer.submit_chat(plain, tools, settings)
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


def _check_settings(tokenizer: TextTokenizer, settings: Settings) -> None:
    """Refuse variables that the template does not read.

    Raises:
        ApiError: 400 naming the variable.
    """
    read = frozenset[str]() if tokenizer.chat is None else tokenizer.chat.settings
    for name in settings:
        if name not in read:
            known = ", ".join(sorted(read)) or "none"
            message = f"the chat template has no variable {name!r} to set; it has {known}"
            raise ApiError(400, message, param=f"chat_template_kwargs.{name}")


async def _waited(submitted: Future[Pieces]) -> Pieces:
    return await asyncio.wrap_future(submitted)
