"""The terminal viewer of ``xdlm generate --watch``."""

from __future__ import annotations

import io
import re
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from models.checkpoints.load import Checkpoint
from models.printable import printable
from server.cli.keys import HELP, Keys
from server.engine.events import Step

STYLES = {
    "prompt": "bold",
    "mask": "bright_black",
    "unmask": "bold green",
    "refine": "bold blue",
    "remask": "bold red",
    "settled": "",
}


PICTURES = 5  # states shown in a saved picture
BAR = 24  # columns
AROUND = 7  # lines of the terminal that are not the text's
LEGEND = (
    ("░░ masked", "mask"),
    ("unmasked", "unmask"),
    ("refined", "refine"),
    ("▒▒ masked again", "remask"),
)


class Viewer:
    """Shows each step: masks grey, freshly unmasked green, refined blue, remasked red."""

    def __init__(
        self, checkpoint: Checkpoint, prompt_length: int, delay: float, svg: Path | None = None
    ) -> None:
        """``svg``: a file; the run's first, middle and last steps are saved there as a picture."""
        self._piece = checkpoint.tokenizer.piece
        mask, self._eos = checkpoint.info.mask_id, checkpoint.info.eos_id
        self._mask = -1 if mask is None else mask  # -1 is no id
        self._prompt_length = prompt_length
        self._keys, self._svg = Keys(delay), svg
        self._canvas: list[int] = []
        self._counts = {"unmask": 0, "refine": 0, "remask": 0}
        self._frames: list[Group] = []
        self._live = Live(auto_refresh=False)
        self._live.start()

    async def show(self, step: Step) -> None:
        """Draw one step, then wait for the delay."""
        if step.canvas is not None:
            self._canvas = list(step.canvas)
        marks = {}
        for change in step.changes:
            self._canvas[change.position] = change.new
            marks[change.position] = change.op
            self._counts[change.op] += 1
        self._keys.start()
        text, at = self._text(marks)
        self._live.update(
            Group(self._header(step), self._window(text, at), self._legend()), refresh=True
        )
        if self._svg is not None:
            self._frames.append(Group(self._header(step), text))
        await self._keys.turn()

    def close(self) -> None:
        """Leave the last picture on the screen, and save the file if one was asked for."""
        self._keys.stop()
        self._live.stop()
        if self._svg is None or not self._frames:
            return
        console = Console(record=True, width=100, file=io.StringIO())
        last = len(self._frames) - 1
        for frame in sorted({last * i // (PICTURES - 1) for i in range(PICTURES)}):
            console.print(self._frames[frame], Text("\n"))
        svg = console.export_svg(title="xdlm generate --watch")
        # rich's SVG loads its font from a web server; remove it
        self._svg.write_text(re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL))
        self._frames.clear()

    def _header(self, step: Step) -> Text:
        masked = self._canvas.count(self._mask)
        done = round(BAR * step.step / max(1, step.steps))
        head = Text("━" * done, style=STYLES["unmask"])
        head.append("━" * (BAR - done), style=STYLES["mask"])
        head.append(f"  step {step.step:>3}/{step.steps}  masked {masked:>3}  ", style="dim")
        for op, count in self._counts.items():
            head.append(f"{op} {count:>3}  ", style=STYLES[op])
        return head

    def _legend(self) -> Text:
        """The signs, and the keys where they are read."""
        legend = Text("\n")
        for word, style in LEGEND:
            legend.append(f"{word}  ", style=STYLES[style])
        if self._keys.listens:
            legend.append("(paused) " if self._keys.paused else "", style="bold")
            legend.append(HELP, style="dim")
        return legend

    def _window(self, text: Text, at: int) -> Text:
        """As many lines of a text as the terminal has room for, the character ``at`` among them."""
        console = self._live.console
        lines = text.wrap(console, console.width)
        room = max(3, console.height - AROUND)
        if len(lines) <= room or not console.is_terminal:
            return text
        ends = list(accumulate(len(one) + 1 for one in lines))
        line = bisect_right(ends, at)
        first = max(0, min(line - room // 2, len(lines) - room))
        return Text("\n").join(lines[first : first + room])

    def _text(self, marks: dict[int, str]) -> tuple[Text, int]:
        """The canvas as text, with masks and changes in colour, and where its first change is."""
        text, first = Text("\n"), None
        for position, id_ in enumerate(self._canvas):
            mark = marks.get(position)
            if mark is not None and first is None:
                first = len(text)
            if id_ == self._mask:
                text.append("░░ " if mark != "remask" else "▒▒ ", style=STYLES[mark or "mask"])
            elif position >= self._prompt_length and id_ == self._eos:
                text.append(" ∎" if mark is None else " ■", style=STYLES[mark or "mask"])
            elif position > 0 or self._prompt_length == 0:
                kind = "prompt" if position < self._prompt_length else "settled"
                text.append(printable(self._piece(id_), keep="\n"), style=STYLES[mark or kind])
        return text, first or 0
