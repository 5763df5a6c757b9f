"""The packed canvases of all running requests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sampler.packing import joined
from sampler.params import (
    COMPATS,
    NOISE_REMOVALS,
    NOISE_SCHEDULES,
    REFINE_SCOPES,
    REMASKINGS,
    REMDM_ETAS,
    REMDM_SCHEDULES,
    SamplingParams,
)
from sampler.schedules import step_plan

BY_POSITION = ("tokens", "editable")
BY_PLANNED_STEP = ("plan_block", "plan_absorb", "plan_refine")


@dataclass(frozen=True)
class CanvasBatch:
    """B canvases lie end to end in T packed tokens; per-request settings lie in arrays beside them,
    and so do the P steps that are planned ahead for the samplers that plan.

    Attributes:
        tokens: ids.
        editable: where the sampler may write; prompts are clamped.
        lengths: positions of each canvas.
        step, steps, calls: step that comes next, T of the request, calls until it is done.
        from_step, from_time: where the time grid of the steps ahead begins (``shorten``).
        seed, mixing_ratio, temperature, top_p, guidance_scale: as in ``SamplingParams``; reals in
            float64.
        label: ``class_label``; -1 where there is none.
        noise_removal, noise_schedule, refine_scope, remasking, compat, remdm_schedule: index into
            the names in ``params``.
        no_eos, ends_last: ``logits_eos_inf`` and ``confidence_eos_eot_inf``.
        tell: ``logprobs``.
        bias_ids, bias: ``logit_bias``, filled up with zeros to the longest.
        block_length: positions of a block; the whole canvas where none was chosen.
        confidence_threshold, entropy_bound, confidence_factor: infinite where none was chosen.
        p_uniform, remdm_eta, remdm_t_on, remdm_t_off, remdm_alpha_on: as in ``SamplingParams``.
        carry: refinements planned and not spent so far.
        plan_steps: entries of each request in the plan.
        plan_block, plan_absorb, plan_refine: see ``StepPlan``.
    """

    tokens: Int[Tensor, " T"]
    editable: Bool[Tensor, " T"]
    lengths: Int[Tensor, " B"]
    step: Int[Tensor, " B"]
    steps: Int[Tensor, " B"]
    calls: Int[Tensor, " B"]
    from_step: Int[Tensor, " B"]
    from_time: Float[Tensor, " B"]
    seed: Int[Tensor, " B"]
    mixing_ratio: Float[Tensor, " B"]
    temperature: Float[Tensor, " B"]
    top_p: Float[Tensor, " B"]
    guidance_scale: Float[Tensor, " B"]
    label: Int[Tensor, " B"]
    noise_removal: Int[Tensor, " B"]
    noise_schedule: Int[Tensor, " B"]
    refine_scope: Int[Tensor, " B"]
    remasking: Int[Tensor, " B"]
    compat: Int[Tensor, " B"]
    no_eos: Bool[Tensor, " B"]
    ends_last: Bool[Tensor, " B"]
    tell: Bool[Tensor, " B"]
    bias_ids: Int[Tensor, "B M"]
    bias: Float[Tensor, "B M"]
    block_length: Int[Tensor, " B"]
    confidence_threshold: Float[Tensor, " B"]
    entropy_bound: Float[Tensor, " B"]
    confidence_factor: Float[Tensor, " B"]
    p_uniform: Float[Tensor, " B"]
    remdm_schedule: Int[Tensor, " B"]
    remdm_eta: Float[Tensor, " B"]
    remdm_t_on: Float[Tensor, " B"]
    remdm_t_off: Float[Tensor, " B"]
    remdm_alpha_on: Float[Tensor, " B"]
    carry: Int[Tensor, " B"]
    plan_steps: Int[Tensor, " B"]
    plan_block: Int[Tensor, " P"]
    plan_absorb: Int[Tensor, " P"]
    plan_refine: Int[Tensor, " P"]

    @classmethod
    def of(
        cls,
        canvases: Sequence[tuple[Sequence[int], Sequence[bool], SamplingParams]],
        device: torch.device | str = "cpu",
    ) -> CanvasBatch:
        """Pack canvases given as (tokens, editable, params), at step 0.

        Raises:
            InvalidParam: params that do not fit their canvas.
        """
        params = [p for _, _, p in canvases]
        plans = [step_plan(p, sum(editable)) for _, editable, p in canvases]

        def whole(values: list[int]) -> Tensor:
            return torch.tensor(values, dtype=torch.int64, device=device)

        def flag(values: list[bool]) -> Tensor:
            return torch.tensor(values, dtype=torch.bool, device=device)

        def real(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float64, device=device)

        biases = [p.logit_bias for p in params]
        width = max(map(len, biases))

        return cls(
            tokens=whole([t for tokens, _, _ in canvases for t in tokens]),
            editable=flag([e for _, editable, _ in canvases for e in editable]),
            lengths=whole([len(tokens) for tokens, _, _ in canvases]),
            step=whole([0] * len(params)),
            steps=whole([p.steps for p in params]),
            calls=whole([p.calls for p in params]),
            from_step=whole([0] * len(params)),
            from_time=real([1.0] * len(params)),
            seed=whole([p.seed for p in params]),
            mixing_ratio=real([p.mixing_ratio for p in params]),
            temperature=real([p.temperature for p in params]),
            top_p=real([p.top_p for p in params]),
            guidance_scale=real([p.guidance_scale for p in params]),
            label=whole([-1 if p.class_label is None else p.class_label for p in params]),
            noise_removal=whole([NOISE_REMOVALS.index(p.noise_removal) for p in params]),
            noise_schedule=whole([NOISE_SCHEDULES.index(p.noise_schedule) for p in params]),
            refine_scope=whole([REFINE_SCOPES.index(p.refine_scope) for p in params]),
            remasking=whole([REMASKINGS.index(p.remasking) for p in params]),
            compat=whole([COMPATS.index(p.compat) for p in params]),
            no_eos=flag([p.logits_eos_inf for p in params]),
            ends_last=flag([p.confidence_eos_eot_inf for p in params]),
            tell=flag([p.logprobs for p in params]),
            bias_ids=whole(_filled(biases, width, 0)).view(len(params), width),
            bias=real(_filled(biases, width, 1)).view(len(params), width),
            block_length=whole([p.block_length or len(tokens) for tokens, _, p in canvases]),
            confidence_threshold=real([p.confidence_threshold for p in params]),
            entropy_bound=real([_or(p.entropy_bound, math.inf) for p in params]),
            confidence_factor=real([_or(p.confidence_factor, math.inf) for p in params]),
            p_uniform=real([p.p_uniform for p in params]),
            remdm_schedule=whole([REMDM_SCHEDULES.index(p.remdm_schedule) for p in params]),
            remdm_eta=real([_or(p.remdm_eta, REMDM_ETAS[p.remdm_schedule]) for p in params]),
            remdm_t_on=real([p.remdm_t_on for p in params]),
            remdm_t_off=real([p.remdm_t_off for p in params]),
            remdm_alpha_on=real([p.remdm_alpha_on for p in params]),
            carry=whole([0] * len(params)),
            plan_steps=whole([len(plan.block) for plan in plans]),
            plan_block=whole([x for plan in plans for x in plan.block]),
            plan_absorb=whole([x for plan in plans for x in plan.absorb]),
            plan_refine=whole([x for plan in plans for x in plan.refine]),
        )

    @property
    def size(self) -> int:
        """B, the number of canvases."""
        return self.lengths.numel()

    @cached_property
    def owner(self) -> tuple[Tensor, Tensor]:
        """(canvas, position within it) of each packed token, both [T]."""
        total = self.tokens.numel()
        canvas = torch.repeat_interleave(self.lengths, output_size=total)
        starts = self.lengths.cumsum(0) - self.lengths
        return canvas, torch.arange(total, device=canvas.device) - starts[canvas]

    @property
    def rank(self) -> Int[Tensor, " T"]:
        """How many editable positions lie before each; blocks count these. A clamped position has
        the rank of the editable one before it, -1 in front of them all.
        """
        canvas, _ = self.owner
        written = self.editable.cumsum(0)
        earlier = written[self.lengths.cumsum(0) - 1]
        return written - F.pad(earlier[:-1], (1, 0))[canvas] - 1

    @property
    def finished(self) -> Bool[Tensor, " B"]:
        """Which canvases have been through all their calls."""
        return self.step >= self.calls

    @property
    def planned(self) -> Int[Tensor, " B"]:
        """Where the step that comes next stands in the plan; the last entry of those that are done.
        Only for samplers that plan.
        """
        starts = self.plan_steps.cumsum(0) - self.plan_steps
        return starts + self.step.clamp(max=self.plan_steps - 1)

    @property
    def block(self) -> Int[Tensor, " B"]:
        """The block of the step that comes next; 0 where nothing is planned."""
        return self.plan_block[self.planned] if self.plan_block.numel() else 0 * self.step

    def leading(self, final: Bool[Tensor, " T"]) -> Int[Tensor, " B"]:
        """Positions of each canvas before the first that is not final."""
        canvas, position = self.owner
        ends = torch.where(final, self.lengths[canvas], position)
        return self.lengths.scatter_reduce(0, canvas, ends, "amin")

    def joined(self, other: CanvasBatch) -> CanvasBatch:
        """This batch with another behind it."""
        pairs = zip(_arrays(self), _arrays(other), strict=True)
        return CanvasBatch(*(joined(pair) for pair in pairs))

    def kept(self, keep: Tensor) -> CanvasBatch:
        """The canvases where keep [B] is true, in order."""
        positions, planned = (
            keep.repeat_interleave(counts) for counts in (self.lengths, self.plan_steps)
        )
        keeps: dict[str, Tensor] = dict.fromkeys(CanvasBatch.__dataclass_fields__, keep)
        keeps |= dict.fromkeys(BY_POSITION, positions) | dict.fromkeys(BY_PLANNED_STEP, planned)
        kept = CanvasBatch(*(getattr(self, name)[k] for name, k in keeps.items()))
        width = int((kept.bias != 0).any(0).sum())
        return replace(kept, bias_ids=kept.bias_ids[:, :width], bias=kept.bias[:, :width])

    def with_tokens(self, tokens: Tensor) -> CanvasBatch:
        """The same batch with other tokens [T]."""
        return replace(self, tokens=tokens)

    def advanced(self, tokens: Tensor) -> CanvasBatch:
        """The batch one step later, with new tokens [T]."""
        return replace(self, tokens=tokens, step=self.step + 1)


def _filled(biases: Sequence[Sequence[tuple[int, float]]], width: int, part: int) -> list:
    """One part of all (id, bias) pairs, each request's filled up with zeros to a width."""
    return [b[part] for pairs in biases for b in (*pairs, *[(0, 0.0)] * (width - len(pairs)))]


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _arrays(batch: CanvasBatch) -> tuple[Tensor, ...]:
    """All arrays in order."""
    return tuple(getattr(batch, name) for name in CanvasBatch.__dataclass_fields__)
