"""Recorded trajectories, as clients hand them back, to the states of their canvases. Every field
that is read is checked, at no more cost than reading it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from server.trajectories.checks import field_of, list_of, object_of, text_of, whole_of
from server.trajectories.parts import Parts, joined, parts_of

MAX_POSITIONS = 65536
MAX_CHOICES = 128
MAX_SIDE = 4096  # tokens of an image's
MAX_LEVELS = 1 << 24
OPS = ("unmask", "refine", "remask")
KINDS = ("grey levels", "vq", "bytes")


@dataclass(frozen=True)
class Grid:
    """How ids make an image; see ``models.images.layout.ImageShape``."""

    width: int
    height: int
    channels: int
    tokens: str
    levels: int

    @property
    def length(self) -> int:
        """Tokens of an image."""
        return self.height * self.width * (self.channels if self.tokens == "bytes" else 1)


@dataclass(frozen=True, slots=True)
class Record:
    """Changes of a step (position, operation, id, text), or a snapshot of the whole canvas."""

    step: int
    final: bool
    elapsed: float | None
    changes: list[tuple[int, str, int, str]]
    snapshot: tuple[list[int], list[str]] | None
    parts: Parts


@dataclass(frozen=True)
class Frame:
    """A canvas after a step, milliseconds since it was queued (None if unknown), its number among
    the frames, and by position the operations since the frame before.
    """

    step: int
    final: bool
    elapsed: float | None
    number: int
    ids: list[int]
    texts: list[str]
    ops: Mapping[int, str]


@dataclass(frozen=True)
class Replay:
    """A recording.

    Attributes:
        model: its name.
        title: what was asked for, in a few words.
        prompt: its text; empty for other prompts.
        seed: of the run, None if it is not known.
        mask, ends: ids of the mask and of what ends a text.
        grid: of its images as the wire has it; None for text.
        editable: of each choice, the positions that may be written.
        steps: of each choice, its records.
    """

    model: str
    title: str
    prompt: str
    seed: int | None
    mask: int | None
    ends: frozenset[int]
    grid: Grid | None
    editable: list[bytearray]
    steps: list[list[Record]]

    @classmethod
    def of(cls, events: Any) -> Replay:
        """Read the records of a trajectory.

        Raises:
            ValueError: they are none, or do not fit together; says which and why.
        """
        events = list_of(events, "events", 1)
        created = _data(events, 0, "diffusion.created")
        choices = list_of(field_of(created, "choices"), "choices", 1, MAX_CHOICES)
        editable = [_editable(choice, f"choices.{i}") for i, choice in enumerate(choices)]
        steps: list[list[Record]] = [[] for _ in choices]
        asked = -1
        for n in range(1, len(events)):
            name = object_of(events[n], f"events.{n}").get("event")
            if name == "diffusion.created":
                raise ValueError(f"record {n}: a second diffusion.created")
            if name != "diffusion.step":
                continue
            data = _data(events, n, "diffusion.step")
            choice = whole_of(
                field_of(data, "choice"), f"record {n}: choice", most=len(choices) - 1
            )
            steps[choice].append(_record(data, n, len(editable[choice]), steps[choice]))
            if asked < 0:
                asked = whole_of(field_of(data, "steps"), f"record {n}: steps")
        if not all(steps):
            raise ValueError(f"choice {steps.index([])} has no steps")
        request = object_of(created.get("request", {}), "request")
        sampler = request.get("sampler", "")
        prompt, seed = request.get("prompt"), created.get("seed")
        mask = created.get("mask")
        ends = list_of(created.get("ends", []), "ends")
        return cls(
            text_of(field_of(created, "model"), "model"),
            f"{asked} steps · {text_of(sampler, 'request.sampler')[:20]}",
            prompt[:200] if isinstance(prompt, str) else "",
            seed if type(seed) is int and abs(seed) < 1 << 64 else None,
            None if mask is None else whole_of(field_of(object_of(mask, "mask"), "id"), "mask.id"),
            frozenset(whole_of(id_, "ends") for id_ in ends),
            _grid(created.get("image")),
            editable,
            steps,
        )

    @property
    def length(self) -> int:
        """Frames of the longest choice."""
        return max(map(len, self.steps))

    @cached_property
    def times(self) -> list[float]:
        """Milliseconds of each frame of the first choice; empty if they are not in order."""
        times = [record.elapsed for record in self.steps[0] if record.elapsed is not None]
        rising = all(a <= b for a, b in pairwise(times))
        return times if rising and len(times) == len(self.steps[0]) else []

    def last(self, choice: int) -> Frame:
        """The last frame of a choice."""
        return next(self.frames(choice, [len(self.steps[choice]) - 1]))

    def frames(self, choice: int, wanted: Sequence[int]) -> Iterator[Frame]:
        """Frames of a choice by number, in rising order; a number past its end is its last."""
        steps, n = self.steps[choice], -1
        ids: list[int] = []
        texts: list[str] = []
        parts: Parts = {}
        for number in wanted:
            ops: dict[int, str] = {}
            while n < min(number, len(steps) - 1):
                n += 1
                record = steps[n]
                ops |= {at: op for at, op, _, _ in record.changes}
                if record.snapshot is not None:
                    ids, texts = list(record.snapshot[0]), list(record.snapshot[1])
                    parts = dict(record.parts)
                    continue
                for at, _, id_, text in record.changes:
                    ids[at], texts[at] = id_, text
                    parts.pop(at, None)
                parts |= record.parts
            record = steps[n]
            yield Frame(
                record.step, record.final, record.elapsed, n, list(ids), joined(texts, parts), ops
            )


def _record(data: dict[str, Any], n: int, positions: int, before: list[Record]) -> Record:
    where = f"record {n}"
    step = whole_of(field_of(data, "step"), f"{where}: step")
    if before and step < before[-1].step:
        raise ValueError(f"{where}: step {step} comes after step {before[-1].step}")
    final = data.get("final", False)
    if not isinstance(final, bool):
        raise ValueError(f"{where}: final is neither true nor false")
    snapshot = data.get("snapshot")
    if snapshot is None and not before:
        raise ValueError(f"{where}: the first step of a choice has no snapshot")
    elapsed = data.get("elapsed_ms")
    elapsed = float(elapsed) if isinstance(elapsed, int | float) and 0 <= elapsed < 1e12 else None
    whole, parts = None, {}
    if snapshot is not None:
        snapshot = object_of(snapshot, f"{where}: snapshot")
        read: list[Any] = []
        for name, kind in (("ids", int), ("texts", str)):
            part = list_of(field_of(snapshot, name), f"{where}: snapshot.{name}")
            if len(part) != positions:
                raise ValueError(
                    f"{where}: snapshot.{name} has {len(part)} entries; the canvas has {positions}"
                )
            check = whole_of if kind is int else text_of
            read.append([check(one, f"{where}: snapshot.{name}") for one in part])
        whole = (read[0], read[1])
        parts = parts_of(snapshot.get("bytes"), f"{where}: snapshot.bytes", positions)
    changes: list[tuple[int, str, int, str]] = []
    for change in list_of(field_of(data, "changes"), f"{where}: changes", most=positions):
        change = object_of(change, f"{where}: changes")
        at = whole_of(field_of(change, "pos"), f"{where}: pos", most=positions - 1)
        op = field_of(change, "op")
        if op not in OPS:
            raise ValueError(f"{where}: op is none of {', '.join(OPS)}")
        id_ = whole_of(field_of(change, "id"), f"{where}: id")
        changes.append((at, op, id_, text_of(field_of(change, "text"), f"{where}: text")))
        if whole is None and "bytes" in change:
            parts |= parts_of({str(at): change["bytes"]}, f"{where}: bytes", positions)
    if len({at for at, _, _, _ in changes}) < len(changes):
        raise ValueError(f"{where}: two changes of one position")
    return Record(step, final, elapsed, changes, whole, parts)


def _editable(choice: Any, where: str) -> bytearray:
    """A byte for each position: whether it may be written."""
    choice = object_of(choice, where)
    positions = whole_of(field_of(choice, "positions"), f"{where}.positions", 1, MAX_POSITIONS)
    written, last = bytearray(positions), 0
    name = f"{where}.editable"
    for stretch in list_of(field_of(choice, "editable"), name, most=positions):
        pair = list_of(stretch, name, 2, 2)
        first = whole_of(pair[0], name, last, positions)
        last = whole_of(pair[1], name, first, positions)
        written[first:last] = b"\1" * (last - first)
    return written


def _grid(image: Any) -> Grid | None:
    if image is None:
        return None
    image = object_of(image, "image")
    width, height = (
        whole_of(field_of(image, side), f"image.{side}", 1, MAX_SIDE)
        for side in ("width", "height")
    )
    channels = whole_of(field_of(image, "channels"), "image.channels", 1, 3)
    tokens = field_of(image, "tokens")
    if channels == 2:
        raise ValueError("image.channels is neither 1 nor 3")
    if tokens not in KINDS:
        raise ValueError(f"image.tokens is none of {', '.join(KINDS)}")
    if tokens == "grey levels" and channels != 1:
        raise ValueError(f"image.channels is {channels} for grey levels, not 1")
    most = MAX_LEVELS if tokens == "vq" else 256
    levels = whole_of(field_of(image, "levels"), "image.levels", 2, most)
    return Grid(width, height, channels, tokens, levels)


def _data(events: list[Any], n: int, name: str) -> dict[str, Any]:
    event = object_of(events[n], f"events.{n}")
    if event.get("event") != name:
        raise ValueError(f"the record {n} is not {name}")
    return object_of(event.get("data"), f"record {n}: data")
