"""Requests to the engine and the events that it reports of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from sampler.constraints.region import Region
from sampler.params import SamplingParams
from sampler.transition import Op
from server.engine.scheduler import Work


@dataclass(frozen=True)
class GenerationRequest:
    """One canvas to denoise.

    Attributes:
        tokens: ids of the whole canvas; those at editable positions are placeholders.
        editable: where the sampler may write.
        params: the request's choices.
        wants_steps: whether ``Step`` events are asked for; without, only the end is reported.
        lossless: steps are never merged, however slow the reader.
        budget: seconds from submission within which the canvas is to be complete, if need be in
            fewer steps.
        through_ends: end tokens do not end the text; all positions are filled and counted.
        spare: positions after the canvas that complete its last block. The network sees them, and
            the sampler fills them; events do not tell of them.
        region: constraint of the text; the sampler writes nothing else.
        draft: ids that the first editable positions begin with in place of noise; None leaves one
            as noise.
        pinned: ids that editable positions, counted likewise, keep; None leaves one free.
    """

    tokens: list[int]
    editable: list[bool]
    params: SamplingParams
    wants_steps: bool = False
    lossless: bool = False
    budget: float | None = None
    through_ends: bool = False
    spare: int = 0
    region: Region | None = None
    draft: tuple[int | None, ...] = ()
    pinned: tuple[int | None, ...] = ()

    def constrained(self, region: Region) -> GenerationRequest:
        """The same, for texts of a language."""
        return replace(self, region=region)

    @property
    def length(self) -> int:
        """Positions, the spare ones included."""
        return len(self.tokens) + self.spare

    @property
    def canvas(self) -> tuple[list[int], list[bool], SamplingParams]:
        """The whole canvas, as ``CanvasBatch.of`` takes it."""
        tokens, editable = [*self.tokens, *[0] * self.spare], [*self.editable, *[True] * self.spare]
        if self.draft or self.pinned:
            written = [at for at, free in enumerate(editable) if free]
            for ids in (self.draft, self.pinned):
                for at, id_ in zip(written, ids, strict=False):
                    tokens[at] = tokens[at] if id_ is None else id_
        return tokens, editable, self.params

    def positions_of(self, ids: Sequence[int | None]) -> np.ndarray:
        """Positions [length] at which ``draft`` or ``pinned`` have an id."""
        found = np.zeros(self.length, dtype=bool)
        written = np.array([*self.editable, *[True] * self.spare]).nonzero()[0]
        found[written[: len(ids)]] = [id_ is not None for id_ in ids]
        return found

    @property
    def work(self) -> Work:
        """Its cost. Under guidance the network reads every canvas twice, and the call that removes
        the last noise counts as a step.
        """
        passes = 1 if self.params.guidance_scale == 1.0 else 2
        return Work(passes * self.length, self.params.steps + 1)

    @classmethod
    def continuing(
        cls,
        prompt: list[int],
        length: int,
        params: SamplingParams,
        wants_steps: bool = False,
        hole: int | None = None,
        suffix: Sequence[int] = (),
        budget: float | None = None,
        through_ends: bool = False,
    ) -> GenerationRequest:
        """A prompt and a suffix, clamped, with ``length`` positions to fill between them, and those
        of the prompt that hold the id ``hole``.

        Raises:
            InvalidParam: params that do not fit the positions.
        """
        editable = [id_ == hole for id_ in prompt] + [True] * length + [False] * len(suffix)
        params.own.check_canvas(params.steps, sum(editable))
        tokens = [*prompt, *[0] * length, *suffix]
        return cls(tokens, editable, params, wants_steps, budget=budget, through_ends=through_ends)


def opening_of(requests: Sequence[GenerationRequest]) -> tuple[np.ndarray, np.ndarray] | None:
    """Positions of all canvases that begin with a given token, and those of them that keep it, both
    [T]; None where there are none.
    """
    if not any(r.draft or r.pinned for r in requests):
        return None
    pinned = np.concatenate([r.positions_of(r.pinned) for r in requests])
    return np.concatenate([r.positions_of(r.draft) for r in requests]) | pinned, pinned


@dataclass(frozen=True)
class LogProbs:
    """Log-probabilities of a token at the step that wrote it.

    Attributes:
        step: that step; None for a token that was given, whose log-probability is an estimate.
        log_p: log-probability of the token under the model, in nats.
        top: (id, log-probability) of the likeliest, in order.
        entropy: of the model's distribution, in nats; None for a given token.
    """

    step: int | None
    log_p: float
    top: tuple[tuple[int, float], ...]
    entropy: float | None = None


@dataclass(frozen=True)
class Change:
    """One position that a step changed."""

    position: int
    op: Op
    old: int
    new: int
    confidence: float
    logprobs: LogProbs | None = None


@dataclass(frozen=True)
class Guess:
    """The token that a mask would have become in a step that left it, and its probability."""

    position: int
    id: int
    p: float


@dataclass(frozen=True)
class Step:
    """Changes since the last event.

    Attributes:
        step: denoising steps done, 0..steps. The last call, which removes the remaining noise, is
            reported with step = steps and ``final`` set.
        steps: denoising steps of the request.
        changes: in position order. Steps that changed nothing are reported too.
        canvas: the whole canvas, on the first event only (the draw from the prior).
        final: the noise-removal call is in it.
        settled: leading positions of the canvas that can no longer change.
        block: the block that the last of these steps worked on.
        guesses: of masks that the last of these steps read, in position order; None where they are
            not asked for.
        completed: positions that were written for good, changed or not, with the log-probabilities
            of their tokens, in position order; empty where changes have them, or none are wanted.
    """

    step: int
    steps: int
    changes: tuple[Change, ...]
    canvas: tuple[int, ...] | None = None
    final: bool = False
    settled: int = 0
    block: int = 0
    guesses: tuple[Guess, ...] | None = None
    completed: tuple[tuple[int, LogProbs], ...] = ()

    def applied_to(self, canvas: Sequence[int]) -> list[int]:
        """The canvas after this event; the first event brings its own."""
        after = list(canvas if self.canvas is None else self.canvas)
        for change in self.changes:
            after[change.position] = change.new
        return after

    def merged(self, later: Step) -> Step:
        """This event and a later one as one: the later state of each position, the earlier
        origin.
        """
        if self.canvas is not None:
            return replace(later, changes=(), canvas=tuple(later.applied_to(self.canvas)))
        by_position = {c.position: c for c in self.changes}
        for change in later.changes:
            first = by_position.get(change.position)
            if first is not None:
                change = replace(change, old=first.old)
            by_position[change.position] = change
        changes = tuple(by_position[p] for p in sorted(by_position))
        completed = tuple(sorted({**dict(self.completed), **dict(later.completed)}.items()))
        final = self.final or later.final
        return replace(later, changes=changes, final=final, completed=completed)


@dataclass(frozen=True)
class Tally:
    """Counts and times of a finished request.

    Attributes:
        steps: denoising steps taken; fewer than asked for where the text ended early.
        forwards: network evaluations; calls that no position asked for are skipped.
        positions: editable positions.
        unmasked, refined, remasked: changes by kind.
        queue_ms, denoise_ms: waiting for a place, and from there to the end.
    """

    steps: int
    forwards: int
    positions: int
    unmasked: int
    refined: int
    remasked: int
    queue_ms: float
    denoise_ms: float

    @staticmethod
    def of_all(tallies: Sequence[Tally]) -> Tally:
        """Of requests that ran beside each other: counts add up, steps and times are the most."""
        most = ("steps", "queue_ms", "denoise_ms")
        return Tally(
            **{
                f.name: (max if f.name in most else sum)(getattr(t, f.name) for t in tallies)
                for f in fields(Tally)
            }
        )


@dataclass(frozen=True)
class Done:
    """The end of a successful request, with its whole final canvas."""

    tokens: tuple[int, ...]
    tally: Tally


@dataclass(frozen=True)
class Failed:
    """The end of a failed request, with an error code and a message."""

    code: str
    message: str


Event = Step | Done | Failed
