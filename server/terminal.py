"""The terminal viewer: a canvas that denoises before your eyes."""

from __future__ import annotations

import asyncio
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from models.checkpoint import Checkpoint
from server.events import Step

STYLES = {
    "prompt": "bold",
    "mask": "bright_black",
    "unmask": "bold green",
    "refine": "bold blue",
    "remask": "bold red",
    "settled": "",
}


class Viewer:
    """Shows each step: masks grey, freshly unmasked green, refined blue, remasked red."""

    def __init__(
        self, checkpoint: Checkpoint, prompt_length: int, delay: float, svg: Path | None = None
    ) -> None:
        """``svg``: a folder; every step is saved there as a picture of the terminal."""
        self._piece = checkpoint.tokenizer.piece
        self._mask, self._eos = checkpoint.info.mask_id, checkpoint.info.eos_id
        self._prompt_length = prompt_length
        self._delay, self._svg = delay, svg
        self._canvas: list[int] = []
        self._counts = {"unmask": 0, "refine": 0, "remask": 0}
        self._frame = 0
        console = Console(record=svg is not None, width=100 if svg else None)
        self._live = Live(console=console, auto_refresh=False, transient=False)
        self._live.start()

    async def show(self, step: Step) -> None:
        """Draw one step, then wait a little."""
        if step.canvas is not None:
            self._canvas = list(step.canvas)
        marks = {}
        for change in step.changes:
            self._canvas[change.position] = change.new
            marks[change.position] = change.op
            self._counts[change.op] += 1
        picture = Group(self._header(step), self._text(marks))
        self._live.update(picture, refresh=True)
        if self._svg is not None:
            self._save(picture)
        if self._delay:
            await asyncio.sleep(self._delay)

    def close(self) -> None:
        """Leave the last picture on the screen."""
        self._live.stop()

    def _header(self, step: Step) -> Text:
        masked = self._canvas.count(self._mask)
        head = Text(f"step {step.step:>3}/{step.steps}  masked {masked:>3}  ", style="dim")
        for op, count in self._counts.items():
            head.append(f"{op} {count:>3}  ", style=STYLES[op])
        return head

    def _text(self, marks: dict[int, str]) -> Text:
        """The canvas as text; behind the first end token nothing but open masks is shown."""
        text = Text("\n")
        for position, id_ in enumerate(self._canvas):
            mark = marks.get(position)
            if id_ == self._mask:
                text.append("░░ " if mark != "remask" else "▒▒ ", style=STYLES[mark or "mask"])
            elif position >= self._prompt_length and id_ == self._eos:
                text.append(" ∎" if mark is None else " ■", style=STYLES[mark or "mask"])
            elif position > 0 or self._prompt_length == 0:
                kind = "prompt" if position < self._prompt_length else "settled"
                text.append(self._piece(id_), style=STYLES[mark or kind])
        return text

    def _save(self, picture: Group) -> None:
        assert self._svg is not None
        self._svg.mkdir(parents=True, exist_ok=True)
        console = Console(record=True, width=100, file=open("/dev/null", "w"))  # noqa: SIM115
        console.print(picture)
        path = self._svg / f"step{self._frame:03d}.svg"
        console.save_svg(str(path), title="xdlm generate --watch")
        self._frame += 1
