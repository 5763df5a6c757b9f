"""A batch of canvases of one sampler with the requests they belong to."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from sampler.batch import CanvasBatch
from sampler.deadline import shortened
from sampler.params import MAX_STEPS
from sampler.step import Sampler
from sampler.transition import OPS
from server.engine.events import Tally
from server.engine.stream import Subscription


@dataclass
class Group:
    """Packed canvases of one sampler and their subscriptions; B is the number of canvases."""

    name: str  # of the sampler
    sampler: Sampler
    batch: CanvasBatch[Any]
    owners: list[Subscription]
    ops: torch.Tensor  # [B, 3] changes so far, by kind
    forwards: torch.Tensor  # [B]
    deadlines: torch.Tensor  # [B], by the monotonic clock; infinite without a latency budget
    through_ends: torch.Tensor  # [B] end tokens do not end the text

    @classmethod
    def of(
        cls, name: str, sampler: Sampler, batch: CanvasBatch[Any], owners: list[Subscription]
    ) -> Group:
        """New requests; ``batch`` holds their canvases as the sampler began them."""
        ops = torch.zeros(len(owners), len(OPS), dtype=torch.int64)
        ends = [o.submitted + (o.request.budget or math.inf) for o in owners]
        deadlines = torch.tensor(ends, dtype=torch.float64)
        through = torch.tensor([o.request.through_ends for o in owners])
        return cls(name, sampler, batch, owners, ops, ops[:, 0].clone(), deadlines, through)

    def kept(self, keep: torch.Tensor) -> Group:
        """The group without the requests where keep [B] is false."""
        flags = keep.tolist()
        return Group(
            self.name,
            self.sampler,
            self.batch.kept(keep),
            [o for o, k in zip(self.owners, flags, strict=True) if k],
            self.ops[keep],
            self.forwards[keep],
            self.deadlines[keep],
            self.through_ends[keep],
        )

    def joined(self, other: Group) -> Group:
        """Both groups as one."""
        return Group(
            self.name,
            self.sampler,
            self.batch.joined(other.batch),
            self.owners + other.owners,
            torch.cat((self.ops, other.ops)),
            torch.cat((self.forwards, other.forwards)),
            torch.cat((self.deadlines, other.deadlines)),
            torch.cat((self.through_ends, other.through_ends)),
        )

    def with_deadline_steps(self, now: float, pace: float) -> Group:
        """The group with fewer remaining steps for requests that would miss their latency budget at
        ``pace`` seconds per step.
        """
        if all(o.request.budget is None for o in self.owners):
            return self
        calls_left = ((self.deadlines - now) / pace).clamp(max=MAX_STEPS).floor().long()
        noise_removal = self.batch.calls - self.batch.steps
        return replace(self, batch=shortened(self.batch, (calls_left - noise_removal).clamp(min=1)))

    def tally(self, i: int, now: float) -> Tally:
        """Steps, network evaluations, changes and times of request i so far."""
        owner = self.owners[i]
        unmasked, refined, remasked = self.ops[i].tolist()
        return Tally(
            steps=int(self.batch.step[i].clamp(max=self.batch.steps[i])),
            forwards=int(self.forwards[i]),
            positions=sum(owner.request.editable),
            unmasked=unmasked,
            refined=refined,
            remasked=remasked,
            queue_ms=1e3 * (owner.admitted - owner.submitted),
            denoise_ms=1e3 * (now - owner.admitted),
        )
