"""Engine events to wire records: trajectory diffs and settled text. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from models.checkpoint import Checkpoint
from server.events import Step

SNAPSHOT_EVERY = 16


class Trajectory:
    """Follows one canvas and describes each step for the wire.

    A snapshot comes first and every 16 steps, diffs between; replaying them gives the final canvas.
    Positions count from the start of the canvas, prompt included.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Start before the first event."""
        self._piece = checkpoint.tokenizer.piece
        self._mask = checkpoint.info.mask_id
        self._since_snapshot = 0
        self.canvas: list[int] = []

    def record(self, step: Step) -> dict[str, Any]:
        """The ``diffusion`` object of one step event."""
        if step.canvas is not None:
            self.canvas = list(step.canvas)
        for change in step.changes:
            self.canvas[change.position] = change.new
        record: dict[str, Any] = {
            "v": 1,
            "step": step.step,
            "steps": step.steps,
            "block": 0,
            "masked": self.canvas.count(self._mask),
            "changes": [
                {
                    "pos": c.position,
                    "op": c.op,
                    "id": c.new,
                    "text": self._piece(c.new),
                    "was": None if c.old == self._mask else c.old,
                    "conf": round(c.confidence, 4),
                }
                for c in step.changes
            ],
        }
        if step.final:
            record["final"] = True
        self._since_snapshot += 1
        if step.canvas is not None or self._since_snapshot >= SNAPSHOT_EVERY:
            self._since_snapshot = 0
            record["snapshot"] = {
                "ids": list(self.canvas),
                "texts": [self._piece(i) for i in self.canvas],
            }
        return record


def finished_text(
    checkpoint: Checkpoint, tokens: Sequence[int], prompt_length: int
) -> tuple[str, int, str]:
    """(text, tokens in it, finish reason) of a final canvas: what stands before the first end
    token.
    """
    generated = list(tokens[prompt_length:])
    eos = checkpoint.info.eos_id
    reason = "length"
    if eos in generated:
        generated = generated[: generated.index(eos)]
        reason = "stop"
    text = checkpoint.tokenizer.continuation(tokens[:prompt_length], generated)
    return text, len(generated), reason
