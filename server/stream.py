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

    def follow(self, step: Step) -> None:
        """Bring the canvas up to date."""
        self.canvas = step.applied_to(self.canvas)

    def record(self, step: Step) -> dict[str, Any]:
        """The ``diffusion`` object of the step that was last followed."""
        record: dict[str, Any] = {
            "v": 1,
            "step": step.step,
            "steps": step.steps,
            "block": step.block,
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


class SettledText:
    """The text of the settled positions, handed out piece by piece and never taken back."""

    def __init__(self, checkpoint: Checkpoint, prompt_length: int) -> None:
        """Nothing is settled yet."""
        self._checkpoint, self._prompt_length = checkpoint, prompt_length
        self._settled = prompt_length
        self._sent = ""

    def more(self, canvas: Sequence[int], settled: int) -> str:
        """What has settled since the last call; a character of several tokens waits for all."""
        if settled <= self._settled:
            return ""
        self._settled = settled
        text, _, _ = finished_text(self._checkpoint, canvas[:settled], self._prompt_length)
        return self._rest(text.rstrip("\N{REPLACEMENT CHARACTER}"))

    def last(self, text: str) -> str:
        """What is left of the whole text."""
        return self._rest(text)

    def _rest(self, text: str) -> str:
        rest = text[len(self._sent) :] if text.startswith(self._sent) else ""
        self._sent += rest
        return rest


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
