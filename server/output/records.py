"""JSON objects of a denoising step, as streams and trajectories contain them."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import Field

from sampler.transition import Op
from server.http.json_response import Answer

FinishReason = Literal["stop", "length"]


class Change(Answer):
    """A position that a step changed."""

    pos: Annotated[int, Field(description="on the canvas, prompt included")]
    op: Op
    id: int
    text: str
    was: Annotated[int | None, Field(description="previous id; null for a mask")]
    conf: Annotated[
        float, Field(description="the model's probability of the new token; 0 for noise")
    ]
    bytes: NotRequired[
        Annotated[
            list[int],
            Field(default=None, description="of a token that is only part of a character"),
        ]
    ]


class Snapshot(Answer):
    """The whole canvas."""

    ids: list[int]
    texts: list[str]
    bytes: NotRequired[
        Annotated[
            dict[str, list[int]],
            Field(
                default=None,
                description="by position, of tokens that are only parts of characters",
            ),
        ]
    ]


class Guesses(Answer):
    """Tokens that masks would have become in a step that read them and left them."""

    pos: Annotated[list[int], Field(description="on the canvas")]
    ids: list[int]
    texts: list[str]
    conf: Annotated[list[float], Field(description="the model's probability of each")]


class StepRecord(Answer):
    """One step of a trajectory."""

    v: Literal[1]
    step: int
    steps: int
    block: int
    masked: Annotated[int, Field(description="masked positions left on the canvas")]
    changes: list[Change]
    final: NotRequired[
        Annotated[
            bool,
            Field(default=False, description="the last step, which removes the remaining noise"),
        ]
    ]
    snapshot: NotRequired[
        Annotated[Snapshot, Field(default=None, description="on the first record and every 16th")]
    ]
    guesses: NotRequired[
        Annotated[Guesses, Field(default=None, description="with trajectory_guesses")]
    ]
