"""The operations of a step in fixed shapes, on the device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sampler.fixed import Sizes
from sampler.interface import FixedDenoiser, Packing
from sampler.layout import Layout
from sampler.logits.guidance import unconditional
from sampler.logits.row_requests import ALL, Asks
from sampler.now import Now
from sampler.outcome import Outcome
from sampler.plan import Rows
from sampler.proposed import Proposed
from sampler.room import Room, Run
from sampler.step import take


def fixed_step(
    network: FixedDenoiser, sizes: Sizes, now: Now, following: Now, given: dict[str, Tensor]
) -> Outcome:
    """Take a step on the device: run the network, write, and count the rows of the next step.

    Args:
        network: the network.
        sizes: of the step.
        now, following: its settings, and those of the next.
        given: the pieces by name.
    """
    of_host = torch.zeros(sizes.canvases, dtype=torch.int64)  # a step on the device reads none
    layout = Layout(
        lengths=of_host,
        canvas=given["canvas"],
        position=given["position"],
        rank=given["rank"],
        editable=given["editable"] != 0,
        ends=given["ends"],
        first=of_host,
        pinned=given["pinned"] != 0 if sizes.pinned else None,
    )
    proposed = Proposed.of(sizes.sampler, layout, now, given["tokens"])
    asks = Asks({name: np.ones(sizes.rows, dtype=bool) for name in sizes.asks})
    room = Room(sizes.rows, False, sizes.rows, asks, Run(sizes.run, of_host), None, ALL)

    def run(rows: Sequence[Rows]) -> Tensor:
        return _hidden(network, sizes, proposed, rows[0], given)

    ((written, told),) = take(network, [proposed], [room], (), [sizes.guesses], run)
    settings = following.with_columns(written.columns)
    told["asked"] = Proposed.of(sizes.sampler, layout, settings, written.tokens).counts
    return Outcome.of([told])


def _hidden(
    network: FixedDenoiser, sizes: Sizes, proposed: Proposed, rows: Rows, given: dict[str, Tensor]
) -> Tensor:
    """Run the network; hidden states of the rows, then of their unconditional twins. Empty rows
    have those of any position that is run.
    """
    tokens, labels = proposed.tokens, proposed.now.of_canvases("label")
    at = given["place"][0, rows.at]
    if sizes.guided:
        bare, none = unconditional(tokens, proposed.layout, labels, proposed.sampler.mask_id)
        tokens, labels = torch.cat((tokens, bare)), torch.cat((labels, none))
        at = torch.cat((at, given["place"][1, rows.at]))
    packing: Packing = (
        given["run_position"],
        given["sequence"],
        given["offsets"].int(),
        sizes.longest,
    )
    if sizes.used:
        packing += (given["slots"], given["starts"].int(), given["used"].int(), sizes.used)
    tokens = tokens[given["run"]]
    if not network.classes:
        return network.trunk_of(tokens, packing, at)
    labels = labels[given["run_canvas"]]
    return network.trunk_of(tokens, packing, at, torch.where(labels < 0, network.classes, labels))
