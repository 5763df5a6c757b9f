"""Engine events to JSON records: trajectory diffs and settled text. Independent of HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from models.checkpoints.load import Checkpoint
from models.tokenization.spans import Token
from models.tokenization.tokenizer import TextTokenizer, common_prefix
from server.engine.events import Change as CanvasChange
from server.engine.events import Guess, Step
from server.output.records import Change, FinishReason, Guesses, Snapshot, StepRecord

SNAPSHOT_EVERY = 16
MASK_SIGN = "\N{LIGHT SHADE}"
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class TrajectoryEncoder:
    """Follows one canvas and encodes each step as a JSON record.

    A snapshot comes first and every 16 steps, diffs between; replaying them gives the final canvas.
    Positions count from the start of the canvas, prompt included.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Holds no canvas before the first event."""
        self._piece, self._checkpoint = checkpoint.piece, checkpoint
        mask = checkpoint.info.mask_id
        self._mask = -1 if mask is None else mask  # -1 is no id
        self._since_snapshot = 0
        self.canvas: list[int] = []

    def follow(self, step: Step) -> None:
        """Bring the canvas up to date."""
        self.canvas = step.applied_to(self.canvas)

    def record(self, step: Step) -> StepRecord:
        """The ``diffusion`` object of the step that was last followed."""
        record: StepRecord = {
            "v": 1,
            "step": step.step,
            "steps": step.steps,
            "block": step.block,
            "masked": self.canvas.count(self._mask),
            "changes": [self._change(c) for c in step.changes],
        }
        if step.final:
            record["final"] = True
        self._since_snapshot += 1
        if step.canvas is not None or self._since_snapshot >= SNAPSHOT_EVERY:
            self._since_snapshot = 0
            record["snapshot"] = self._snapshot()
        if step.guesses is not None:
            record["guesses"] = self._guesses(step.guesses)
        return record

    def _guesses(self, made: Sequence[Guess]) -> Guesses:
        return {
            "pos": [guess.position for guess in made],
            "ids": [guess.id for guess in made],
            "texts": [self._piece(guess.id) for guess in made],
            "conf": [round(guess.p, 4) for guess in made],
        }

    def _change(self, made: CanvasChange) -> Change:
        text = self._piece(made.new)
        change: Change = {
            "pos": made.position,
            "op": made.op,
            "id": made.new,
            "text": text,
            "was": None if made.old == self._mask else made.old,
            "conf": round(made.confidence, 4),
        }
        if (part := self._part(made.new, text)) is not None:
            change["bytes"] = part
        return change

    def _snapshot(self) -> Snapshot:
        texts = [self._piece(i) for i in self.canvas]
        snapshot: Snapshot = {"ids": list(self.canvas), "texts": texts}
        parts = (self._part(i, text) for i, text in zip(self.canvas, texts, strict=True))
        if found := {str(at): part for at, part in enumerate(parts) if part is not None}:
            snapshot["bytes"] = found
        return snapshot

    def _part(self, id_: int, text: str) -> list[int] | None:
        """The bytes of a token that is only part of a character."""
        if REPLACEMENT not in text or self._checkpoint.text is None:
            return None
        data = self._checkpoint.text.data(id_)
        return None if data == text.encode() else list(data) or None


@dataclass(frozen=True)
class Read:
    """Tokens of a canvas, decoded after the tokens before them.

    Attributes:
        tokenizer: of the checkpoint.
        before: ids of those tokens.
        ids: the tokens.
        text: the characters that they add.
    """

    tokenizer: TextTokenizer
    before: Sequence[int]
    ids: Sequence[int]
    text: str

    @cached_property
    def tokens(self) -> list[Token]:
        """Where each token lies in the text."""
        return self.tokenizer.tokens(self.before, self.ids, self.text)


@dataclass(frozen=True)
class Text:
    """The text of a canvas, or of a part from its start.

    Attributes:
        text: what was written.
        tokens: how many tokens it took.
        reason: ``stop`` at an end token or a stop string, else ``length``.
        positions: on the canvas, of the tokens in it, given ones between them included.
        read: the text and its tokens without regard to stop strings.
        end: position of the end token that ended it, if one did.
        stopped: at a stop string.
    """

    text: str
    tokens: int
    reason: FinishReason
    positions: tuple[int, ...]
    read: Read
    end: int | None = None
    stopped: bool = False

    def tokens_from(self, first: int = 0) -> list[Token]:
        """Its tokens from the ``first`` on; one that reaches into a stop string is cut there."""
        size = len(self.text)
        return [token.cut(0, size) for token in self.read.tokens[first : len(self.positions)]]


def text_of(
    checkpoint: Checkpoint,
    tokens: Sequence[int],
    editable: Sequence[bool],
    stops: Sequence[str] = (),
    through_ends: bool = False,
) -> Text:
    """The text from the first written position to the last, given tokens between them included.

    What was written in one stretch ends at its first end token, unless the text goes
    ``through_ends``; the whole ends before the stop string that is complete first. ``tokens`` may
    be a part of the canvas from its start.
    """
    start = first_written(editable)
    kept: list[int] = []  # positions
    counts = [0]  # written tokens among the first 0, 1, ... of ``kept``
    ends = () if through_ends else checkpoint.ends
    after_last, ended, end = 0, None, None
    for at in range(start, len(tokens)):
        if not editable[at]:
            ended = None
        elif ended is None and tokens[at] in ends:
            ended = at
        if ended is None:
            kept.append(at)
            counts.append(counts[-1] + editable[at])
        if editable[at]:
            after_last, end = len(kept), ended
    before, ids = tokens[:start], [tokens[at] for at in kept[:after_last]]
    text = checkpoint.tokenizer.continuation(before, ids)
    read = Read(checkpoint.tokenizer, before, ids, text)
    cut = first_stop(text, stops)
    if cut is None:
        reason = "length" if end is None else "stop"
        return Text(text, counts[after_last], reason, tuple(kept[:after_last]), read, end)
    needed = next((n for n, t in enumerate(read.tokens) if t.start >= cut and t.end > cut), None)
    needed = after_last if needed is None else needed
    return Text(text[:cut], counts[needed], "stop", tuple(kept[:needed]), read, stopped=True)


def first_stop(text: str, stops: Sequence[str]) -> int | None:
    """Where the stop string begins that is complete first, if there is one."""
    found = ((at + len(stop), at) for stop in stops if (at := text.find(stop)) >= 0)
    return min(found, default=(0, None))[1]


def stop_of(text: Text, stops: Sequence[str]) -> str | None:
    """The stop string that ended a text, if one did: of several that begin there the shortest."""
    if not text.stopped:
        return None
    cut = len(text.text)
    return min((stop for stop in stops if text.read.text.startswith(stop, cut)), key=len)


def snapshot_of(checkpoint: Checkpoint, tokens: Sequence[int], editable: Sequence[bool]) -> str:
    """An unfinished canvas from the first written position on, with a block character per mask."""
    mask, tokenizer, sign = checkpoint.info.mask_id, checkpoint.tokenizer, MASK_SIGN.encode()
    shown = tokens[first_written(editable) :]
    pieces = (sign if i == mask else tokenizer.data(i) for i in shown)
    return b"".join(pieces).decode(errors="replace")


def first_written(editable: Sequence[bool]) -> int:
    """The first position that is written, or the number of positions."""
    return next((at for at, written in enumerate(editable) if written), len(editable))


class SettledText:
    """The text of the settled positions, handed out piece by piece and never taken back.

    Characters that may begin a stop string are held back until that is decided.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        editable: Sequence[bool],
        stops: Sequence[str] = (),
        through_ends: bool = False,
    ) -> None:
        """Nothing is settled yet."""
        self._checkpoint, self._editable, self._stops = checkpoint, editable, stops
        self._through_ends = through_ends
        self._beginnings = {stop[:n] for stop in stops for n in range(1, len(stop))}
        self._longest = max(map(len, self._beginnings), default=0)
        self._settled = first_written(editable)
        self._sent = ""
        self.stopped = False
        self.text: Text | None = None  # as of the last call of ``more``
        self.tokens = 0  # in what was handed out, as of the last time that nothing was held back

    def more(self, canvas: Sequence[int], settled: int) -> str:
        """Text settled since the last call; a character of several tokens waits for all of them."""
        if settled <= self._settled or self.stopped:
            return ""
        self._settled = settled
        found = self._text_of(canvas[:settled])
        self.text = found
        text = found.text.rstrip(REPLACEMENT)
        steady = self._checkpoint.tokenizer.steady(canvas[:settled])
        if steady < settled:
            text = common_prefix(text, self._text_of(canvas[:steady]).text)
        cut = first_stop(text, self._stops)
        self.stopped = cut is not None
        rest = self._rest(text[: len(text) - self._undecided(text) if cut is None else cut])
        if self._sent == found.text:
            self.tokens = found.tokens
        return rest

    def _text_of(self, canvas: Sequence[int]) -> Text:
        return text_of(self._checkpoint, canvas, self._editable, through_ends=self._through_ends)

    def _undecided(self, text: str) -> int:
        """Characters at the end with which a stop string may begin."""
        sizes = range(min(self._longest, len(text)), 0, -1)
        return next((n for n in sizes if text[-n:] in self._beginnings), 0)

    @property
    def characters(self) -> int:
        """Number of characters handed out."""
        return len(self._sent)

    def last(self, text: str) -> str:
        """The rest of the whole text."""
        return self._rest(text)

    def _rest(self, text: str) -> str:
        rest = text[len(self._sent) :] if text.startswith(self._sent) else ""
        self._sent += rest
        return rest
