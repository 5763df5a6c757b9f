"""Recorded trajectories, as clients hand them back, to the states of their canvases. Every field
that is read is checked, at no more cost than reading it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_POSITIONS = 65536
MAX_CHOICES = 128
MAX_SIDE = 4096  # tokens of an image's
MAX_LEVELS = 1 << 24
LARGEST = 2**31 - 1
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
    changes: list[tuple[int, str, int, str]]
    snapshot: tuple[list[int], list[str]] | None


@dataclass(frozen=True)
class Frame:
    """A canvas after a step, and by position the operations since the frame before."""

    step: int
    final: bool
    ids: list[int]
    texts: list[str]
    ops: Mapping[int, str]


@dataclass(frozen=True)
class Replay:
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
        events = _list(events, "events", 1)
        created = _data(events, 0, "diffusion.created")
        choices = _list(_field(created, "choices"), "choices", 1, MAX_CHOICES)
        editable = [_editable(choice, f"choices.{i}") for i, choice in enumerate(choices)]
        steps: list[list[Record]] = [[] for _ in choices]
        asked = -1
        for n in range(1, len(events)):
            name = _object(events[n], f"events.{n}").get("event")
            if name == "diffusion.created":
                raise ValueError(f"record {n}: a second diffusion.created")
            if name != "diffusion.step":
                continue
            data = _data(events, n, "diffusion.step")
            choice = _whole(_field(data, "choice"), f"record {n}: choice", most=len(choices) - 1)
            steps[choice].append(_record(data, n, len(editable[choice]), steps[choice]))
            if asked < 0:
                asked = _whole(_field(data, "steps"), f"record {n}: steps")
        if not all(steps):
            raise ValueError(f"choice {steps.index([])} has no steps")
        request = _object(created.get("request", {}), "request")
        sampler = request.get("sampler", "")
        mask = created.get("mask")
        ends = _list(created.get("ends", []), "ends")
        return cls(
            _text(_field(created, "model"), "model"),
            f"{asked} steps · {_text(sampler, 'request.sampler')[:20]}",
            None if mask is None else _whole(_field(_object(mask, "mask"), "id"), "mask.id"),
            frozenset(_whole(id_, "ends") for id_ in ends),
            _grid(created.get("image")),
            editable,
            steps,
        )

    @property
    def length(self) -> int:
        """Frames of the longest choice."""
        return max(map(len, self.steps))

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
                ops |= {at: op for at, op, _, _ in record.changes}
                if record.snapshot is not None:
                    ids, texts = list(record.snapshot[0]), list(record.snapshot[1])
                    continue
                for at, _, id_, text in record.changes:
                    ids[at], texts[at] = id_, text
            yield Frame(steps[n].step, steps[n].final, list(ids), list(texts), ops)


def _record(data: dict[str, Any], n: int, positions: int, before: list[Record]) -> Record:
    where = f"record {n}"
    step = _whole(_field(data, "step"), f"{where}: step")
    if before and step < before[-1].step:
        raise ValueError(f"{where}: step {step} comes after step {before[-1].step}")
    final = data.get("final", False)
    if not isinstance(final, bool):
        raise ValueError(f"{where}: final is neither true nor false")
    snapshot = data.get("snapshot")
    if snapshot is None and not before:
        raise ValueError(f"{where}: the first step of a choice has no snapshot")
    whole = None
    if snapshot is not None:
        snapshot = _object(snapshot, f"{where}: snapshot")
        parts = []
        for name, kind in (("ids", int), ("texts", str)):
            part = _list(_field(snapshot, name), f"{where}: snapshot.{name}")
            if len(part) != positions:
                raise ValueError(
                    f"{where}: snapshot.{name} has {len(part)} entries; the canvas has {positions}"
                )
            check = _whole if kind is int else _text
            parts.append([check(one, f"{where}: snapshot.{name}") for one in part])
        whole = (parts[0], parts[1])
    changes: list[tuple[int, str, int, str]] = []
    for change in _list(_field(data, "changes"), f"{where}: changes", most=positions):
        change = _object(change, f"{where}: changes")
        at = _whole(_field(change, "pos"), f"{where}: pos", most=positions - 1)
        op = _field(change, "op")
        if op not in OPS:
            raise ValueError(f"{where}: op is none of {', '.join(OPS)}")
        id_ = _whole(_field(change, "id"), f"{where}: id")
        changes.append((at, op, id_, _text(_field(change, "text"), f"{where}: text")))
    if len({at for at, _, _, _ in changes}) < len(changes):
        raise ValueError(f"{where}: two changes of one position")
    return Record(step, final, changes, whole)


def _editable(choice: Any, where: str) -> bytearray:
    """A byte for each position: whether it may be written."""
    choice = _object(choice, where)
    positions = _whole(_field(choice, "positions"), f"{where}.positions", 1, MAX_POSITIONS)
    written, last = bytearray(positions), 0
    name = f"{where}.editable"
    for stretch in _list(_field(choice, "editable"), name, most=positions):
        pair = _list(stretch, name, 2, 2)
        first = _whole(pair[0], name, last, positions)
        last = _whole(pair[1], name, first, positions)
        written[first:last] = b"\1" * (last - first)
    return written


def _grid(image: Any) -> Grid | None:
    if image is None:
        return None
    image = _object(image, "image")
    width, height = (
        _whole(_field(image, side), f"image.{side}", 1, MAX_SIDE) for side in ("width", "height")
    )
    channels = _whole(_field(image, "channels"), "image.channels", 1, 3)
    tokens = _field(image, "tokens")
    if channels == 2:
        raise ValueError("image.channels is neither 1 nor 3")
    if tokens not in KINDS:
        raise ValueError(f"image.tokens is none of {', '.join(KINDS)}")
    if tokens == "grey levels" and channels != 1:
        raise ValueError(f"image.channels is {channels} for grey levels, not 1")
    most = MAX_LEVELS if tokens == "vq" else 256
    levels = _whole(_field(image, "levels"), "image.levels", 2, most)
    return Grid(width, height, channels, tokens, levels)


def _data(events: list[Any], n: int, name: str) -> dict[str, Any]:
    event = _object(events[n], f"events.{n}")
    if event.get("event") != name:
        raise ValueError(f"the record {n} is not {name}")
    return _object(event.get("data"), f"record {n}: data")


def _field(given: dict[str, Any], name: str) -> Any:
    if name not in given:
        raise ValueError(f"{name} is missing")
    return given[name]


def _object(given: Any, where: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise ValueError(f"{where} is no object")
    return given


def _list(given: Any, where: str, least: int = 0, most: int | None = None) -> list[Any]:
    if not isinstance(given, list):
        raise ValueError(f"{where} is no list")
    if len(given) < least:
        raise ValueError(f"{where} has {len(given)} entries; at least {least} are needed")
    if most is not None and len(given) > most:
        raise ValueError(f"{where} has {len(given)} entries; the limit is {most}")
    return given


def _whole(given: Any, where: str, least: int = 0, most: int = LARGEST) -> int:
    if type(given) is float and given.is_integer():
        given = int(given)  # JSON has one kind of number
    if type(given) is not int:
        raise ValueError(f"{where} is no integer")
    if not least <= given <= most:
        told = str(given) if abs(given) < 10**20 else "an integer of many digits"
        raise ValueError(f"{where} is {told}, not between {least} and {most}")
    return given


def _text(given: Any, where: str) -> str:
    if not isinstance(given, str):
        raise ValueError(f"{where} is no text")
    return given
