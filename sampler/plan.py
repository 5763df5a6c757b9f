"""The parts of a step that samplers share: the plan on the host, rows of logits, and the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int
from torch import Tensor

from sampler.batch import CanvasBatch
from sampler.layout import Layout
from sampler.logits.row_requests import Asks
from sampler.now import Columns, Now
from sampler.packing import marked


@dataclass(frozen=True)
class Plan:
    """A step of a batch as far as the host knows it.

    Attributes:
        now: settings of each canvas in the step.
        asks: what the rows of each canvas ask for, if there are any.
    """

    now: Now
    asks: Asks

    @staticmethod
    def of(
        batch: CanvasBatch,
        at_positions: Columns,
        at_rows: Columns,
        at_canvases: Columns,
        asks: Asks,
    ) -> Plan:
        """The plan of host columns [B], named for where they are read. Those that a sampler's
        ``commit`` writes are read per canvas.
        """
        common = {"label": batch.label}
        if batch.active is not None:
            common["active"] = batch.active
        now = Now.of(at_positions, at_rows, {**at_canvases, **common}, batch.bias_ids, batch.bias)
        return Plan(now, asks)


def row_settings(
    batch: CanvasBatch,
    *,
    as_model: bool,
    temperature: Tensor | None = None,
    **flags: Bool[Tensor, " B"],
) -> tuple[dict[str, Tensor], Asks]:
    """The columns that rows of every sampler read, and what they ask for.

    Args:
        batch: the canvases.
        as_model: whether probabilities are told as the model gave them.
        temperature: in place of the requests' own.
        flags: ``official``, ``crossing``, ``entropy``, ``no_eos``, ``eos_last``, ``eot_last`` and
            ``denoise`` of ``RowQuery``.
    """
    if temperature is None:
        temperature = batch.temperature
    heat = temperature.numpy()
    drawn = heat != 0
    tempered = drawn & (heat != 1)
    columns = {"temperature": temperature}
    asks: dict[str, np.ndarray] = {
        "drawn": drawn,
        "tempered": tempered,
        "narrow": drawn & (batch.top_p.numpy() < 1.0),
        "guided": batch.guidance_scale.numpy() != 1.0,
        "tell": batch.tell.numpy(),
    }
    if as_model:
        asks |= {"model": np.ones(len(heat), dtype=bool), "reheated": tempered}
    asks |= {n: flag.numpy() for n, flag in flags.items()}
    if "crossing" in asks:
        asks["crossing"] = asks["crossing"] & asks["narrow"]
    found = Asks.of(**asks)
    readers = {"narrow": "top_p", "guided": "guidance_scale", "tell": "tell"}
    columns |= {column: getattr(batch, column) for n, column in readers.items() if n in found}
    columns |= {n: flag for n, flag in flags.items() if n in found}
    ends = [found.pop(n) for n in ("eos_last", "eot_last") if n in found]
    if ends:
        found["endless"] = np.any(ends, axis=0)
    return columns, found


@dataclass(frozen=True)
class Rows:
    """The rows of logits of one batch: R places, in order of position, some of which may be empty.

    Attributes:
        packed: position of each; T for an empty place.
        at: the same, with some position for an empty place.
        canvas: which canvas it belongs to.
        position: its index on that canvas.
        valid: false for empty places; None where there are none.
        settings: columns of ``Now`` at the rows.
        longest: rows of one canvas, at most.
    """

    packed: Int[Tensor, " R"]
    at: Int[Tensor, " R"]
    canvas: Int[Tensor, " R"]
    position: Int[Tensor, " R"]
    valid: Bool[Tensor, " R"] | None
    settings: dict[str, Tensor]
    longest: int

    @classmethod
    def of(
        cls,
        layout: Layout,
        now: Now,
        marks: Bool[Tensor, " T"],
        room: int,
        exact: bool,
        longest: int,
    ) -> Rows:
        """The marked positions; ``exact``: ``room`` is their number, and not only a bound."""
        packed = at = marked(marks, room)
        valid = None
        if not exact:
            valid, at = packed < layout.positions, packed.clamp(max=layout.positions - 1)
        canvas = layout.canvas[at]
        return cls(packed, at, canvas, layout.position[at], valid, now.at_rows(canvas), longest)


@dataclass(frozen=True)
class Written:
    """The result of a sampler's commit.

    Attributes:
        tokens: of all positions.
        columns: state of the sampler for the next step, whole numbers [B] by the name of their
            column, which is also their name in ``Now``.
        noise: of each row of logits, whether its position holds noise that no mask shows; None
            where a mask stands for noise.
        completed: of each row, whether its position was written for good, be it with the token that
            stood there; of these rows alone log-probabilities are reported. None where they are
            reported for every change.
    """

    tokens: Int[Tensor, " T"]
    columns: Mapping[str, Tensor]
    noise: Bool[Tensor, " R"] | None = None
    completed: Bool[Tensor, " R"] | None = None
