"""Recorded trajectories, as clients hand them back, to the states of their canvases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from models.images.layout import ImageShape, TokenKind

MAX_POSITIONS = 65536
Id = Field(ge=0, lt=2**31)


class _Choice(BaseModel):
    positions: int = Field(ge=1, le=MAX_POSITIONS)
    editable: list[tuple[int, int]]


class _Mask(BaseModel):
    id: int = Id


class _Grid(BaseModel):
    width: int = Field(ge=1, le=4096)
    height: int = Field(ge=1, le=4096)
    channels: Literal[1, 3]
    tokens: TokenKind
    levels: int = Field(ge=2)


class _Created(BaseModel):
    model: str
    choices: list[_Choice] = Field(min_length=1, max_length=128)
    mask: _Mask
    ends: list[int] = []
    image: _Grid | None = None
    request: dict[str, Any] = {}


class _Change(BaseModel):
    pos: int = Id
    op: Literal["unmask", "refine", "remask"]
    id: int = Id
    text: str


class _Snapshot(BaseModel):
    ids: list[int]
    texts: list[str]


class _Step(BaseModel):
    choice: int = Id
    step: int
    steps: int
    final: bool = False
    changes: list[_Change]
    snapshot: _Snapshot | None = None


@dataclass(frozen=True)
class Frame:
    """What stands on a canvas after a step, and by position what changed since the frame before."""

    step: int
    final: bool
    ids: list[int]
    texts: list[str]
    ops: Mapping[int, str]


@dataclass(frozen=True)
class Film:
    """A recording.

    Attributes:
        model: its name.
        title: what was asked for, in a few words.
        mask, ends: ids of the mask and of what ends a text.
        grid: of its images as the wire has it; None for text.
        editable: of each choice, the positions that may be written.
        steps: of each choice, its records.
    """

    model: str
    title: str
    mask: int
    ends: frozenset[int]
    grid: _Grid | None
    editable: list[list[bool]]
    steps: list[list[_Step]]

    @classmethod
    def of(cls, events: Sequence[Mapping[str, Any]]) -> Film:
        """Read the records of a trajectory.

        Raises:
            ValueError: they are none, or do not fit together; says which and why.
        """
        try:
            created = _Created.model_validate(_data(events, 0, "diffusion.created"))
            steps: list[list[_Step]] = [[] for _ in created.choices]
            for n, event in enumerate(events):
                if event.get("event") == "diffusion.step":
                    record = _Step.model_validate(_data(events, n, "diffusion.step"))
                    _check(record, created, steps, n)
                    steps[record.choice].append(record)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ValueError(f"{where[:80]}: {first['msg']}") from None
        if not all(steps):
            raise ValueError("a choice has no steps")
        request = created.request
        title = f"{steps[0][0].steps} steps · {str(request.get('sampler', ''))[:20]}"
        return cls(
            created.model,
            title,
            created.mask.id,
            frozenset(created.ends),
            created.image,
            [_editable(choice) for choice in created.choices],
            steps,
        )

    @property
    def length(self) -> int:
        """Frames of the longest choice."""
        return max(map(len, self.steps))

    def shape(self) -> ImageShape | None:
        """The image that ids make without a decoder; None for text and for codes."""
        grid = self.grid
        if grid is None or grid.tokens == "vq":
            return None
        return ImageShape(grid.height, grid.width, grid.channels, grid.tokens, grid.levels)

    def frames(self, choice: int, wanted: Sequence[int]) -> Iterator[Frame]:
        """Frames of a choice by number, in rising order; a number past its end is its last."""
        steps, n = self.steps[choice], -1
        ids: list[int] = []
        texts: list[str] = []
        for number in wanted:
            ops: dict[int, str] = {}
            while n < min(number, len(steps) - 1):
                n += 1
                record = steps[n]
                ops |= {change.pos: change.op for change in record.changes}
                if record.snapshot is not None:
                    ids, texts = list(record.snapshot.ids), list(record.snapshot.texts)
                    continue
                for change in record.changes:
                    ids[change.pos], texts[change.pos] = change.id, change.text
            yield Frame(steps[n].step, steps[n].final, list(ids), list(texts), ops)


def _data(events: Sequence[Mapping[str, Any]], n: int, name: str) -> Any:
    if not events or events[n].get("event") != name:
        raise ValueError(f"the record {n} is not {name}")
    return events[n].get("data")


def _check(record: _Step, created: _Created, steps: Sequence[Sequence[_Step]], n: int) -> None:
    if record.choice >= len(created.choices):
        raise ValueError(f"record {n}: there is no choice {record.choice}")
    positions = created.choices[record.choice].positions
    if any(change.pos >= positions for change in record.changes):
        raise ValueError(f"record {n}: a change behind the end of the canvas")
    whole = record.snapshot
    if whole is None and not steps[record.choice]:
        raise ValueError(f"record {n}: the first step of a choice has no snapshot")
    if whole is not None and not len(whole.ids) == len(whole.texts) == positions:
        raise ValueError(f"record {n}: the snapshot is not as long as the canvas")
    if whole is not None and not all(0 <= id_ < 2**31 for id_ in whole.ids):
        raise ValueError(f"record {n}: the snapshot holds what is no id")


def _editable(choice: _Choice) -> list[bool]:
    written = [False] * choice.positions
    for first, behind in choice.editable:
        first, behind = max(0, first), min(behind, choice.positions)
        written[first:behind] = [True] * max(0, behind - first)
    return written
