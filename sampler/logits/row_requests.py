"""What a sampler asks of rows of logits, in pieces whose logits fit into memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sampler.batch import CanvasBatch
from sampler.logits.head import MIN_ROWS
from sampler.packing import joined

CHUNK_ELEMENTS = {"cpu": 1 << 21, "cuda": 1 << 27}
"""Logits held at once: 8 MiB in fp32 stay in a CPU's cache; a GPU wants few and large pieces of
work, and has 512 MiB.
"""


@dataclass(frozen=True)
class RowQuery:
    """What is asked of each of R rows.

    Attributes:
        current: id that stands there now.
        u: uniforms for the categorical draw.
        temperature: divides the logits; 0 puts all mass on the likeliest id.
        top_p: mass of the nucleus.
        as_model: probabilities are told as the model gave them, and not as the token was drawn,
            after temperature and top-p.
        official: as LLaDA-XDLM's published loop has it: the mask is a token like any other, and
            what is told is a softmax in the network's own type, with its rounding.
        entropy: the entropy of the model's distribution is wanted.
        no_eos: the end token is never drawn.
        eos_last, eot_last: in what is told, the end token, or the end of a turn, has probability 0
            and the others share what it had.
        guidance_scale: w; rows with another value than 1 have a second row of hidden states.
        tell: the model's log-probabilities are wanted.
        written: id whose log-probability that is; -1 for the sample.
        bias_ids, bias: added to the logits, filled up with zeros to the longest.
    """

    current: Int[Tensor, " R"]
    u: Float[Tensor, " R"]
    temperature: Float[Tensor, " R"]
    top_p: Float[Tensor, " R"]
    as_model: Bool[Tensor, " R"]
    official: Bool[Tensor, " R"]
    entropy: Bool[Tensor, " R"]
    no_eos: Bool[Tensor, " R"]
    eos_last: Bool[Tensor, " R"]
    eot_last: Bool[Tensor, " R"]
    guidance_scale: Float[Tensor, " R"]
    tell: Bool[Tensor, " R"]
    written: Int[Tensor, " R"]
    bias_ids: Int[Tensor, "R M"]
    bias: Float[Tensor, "R M"]

    @classmethod
    def about(
        cls, batch: CanvasBatch, rows: Tensor, of: Tensor, u: Tensor, **other: Tensor
    ) -> RowQuery:
        """Ask about packed positions ``rows`` of canvases ``of`` by their requests' settings.

        ``other`` fields replace these; marks that are not given are off.
        """
        off = torch.zeros_like(rows, dtype=torch.bool)
        marks = ("as_model", "official", "entropy", "no_eos", "eos_last", "eot_last")
        asked: dict[str, Tensor] = dict.fromkeys(marks, off) | {
            "current": batch.tokens[rows],
            "u": u,
            "temperature": batch.temperature[of],
            "top_p": batch.top_p[of],
            "guidance_scale": batch.guidance_scale[of],
            "tell": batch.tell[of],
            "written": torch.full_like(rows, -1),
            "bias_ids": batch.bias_ids[of],
            "bias": batch.bias[of],
        }
        return cls(**(asked | other))

    def part(self, rows: slice) -> RowQuery:
        """The query for some of the rows."""
        return RowQuery(*(getattr(self, name)[rows] for name in RowQuery.__dataclass_fields__))

    def chunks(self, vocab_size: int) -> list[Chunk]:
        """The query in pieces whose logits fit. Made before the network runs: it is not clear what
        a piece asks for until the GPU has said so, and later that would mean to wait for it.
        """
        count = self.u.numel()
        under_guidance = self.guidance_scale != 1.0
        second = count - 1 + under_guidance.cumsum(0)
        size = rows_at_once(vocab_size, self.u.device)
        parts = [slice(at, min(at + size, count)) for at in range(0, max(1, count), size)]
        return [Chunk.of(rows, self.part(rows), second[rows]) for rows in parts]

    @staticmethod
    def joined(queries: Sequence[RowQuery]) -> RowQuery:
        """Several queries, one after the other."""
        names = RowQuery.__dataclass_fields__
        return RowQuery(*(joined([getattr(q, name) for q in queries]) for name in names))


@dataclass(frozen=True)
class Chunk:
    """Some rows of a query, and which of them want more than a draw.

    Attributes:
        rows: which of the query's.
        query: what is asked of them.
        pairs, second: rows under guidance, and where their other hidden states are.
        reheated: the model's own distribution is asked for, and temperature changes it.
        tempered, narrow: temperature, or top-p, is at work.
        entropies, telling, endless, official: those that ask for the entropy, for
            log-probabilities, for what is told to leave out the ends, or as the published loop has
            it.
    """

    rows: slice
    query: RowQuery
    pairs: Tensor
    second: Tensor
    reheated: Tensor
    tempered: Tensor
    narrow: Tensor
    entropies: Tensor
    telling: Tensor
    endless: Tensor
    official: Tensor

    @classmethod
    def of(cls, rows: slice, query: RowQuery, second: Tensor) -> Chunk:
        """``second``: of each row [R], where its other hidden states would be."""
        drawn = query.temperature != 0
        tempered = drawn & (query.temperature != 1)
        pairs, *others = (
            torch.nonzero(flags)[:, 0]
            for flags in (
                query.guidance_scale != 1.0,
                query.as_model & tempered,
                tempered,
                drawn & (query.top_p < 1.0),
                query.entropy,
                query.tell,
                query.eos_last | query.eot_last,
                query.official,
            )
        )
        return cls(rows, query, pairs, second[pairs], *others)


def rows_at_once(vocab_size: int, device: torch.device) -> int:
    """How many rows of logits a chunk has."""
    return max(MIN_ROWS, CHUNK_ELEMENTS[device.type] // vocab_size)
