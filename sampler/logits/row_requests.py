"""Questions of a sampler about rows of logits, in pieces whose logits fit into memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sampler.logits.head import MIN_ROWS
from sampler.packing import joined
from sampler.transfer import to_device

CHUNK_ELEMENTS = {"cpu": 1 << 21, "cuda": 1 << 27}
"""Logits held at once: 8 MiB in fp32 stay in a CPU's cache; a GPU wants few and large pieces of
work, and has 512 MiB.
"""
UNASKED: dict[str, Any] = {
    "top_p": 1.0,
    "crossing": False,
    "certainty": 0,
    "as_model": False,
    "official": False,
    "entropy": False,
    "no_eos": False,
    "eos_last": False,
    "eot_last": False,
    "denoise": False,
    "guidance_scale": 1.0,
    "tell": False,
    "written": -1,
}
"""Values that ask for nothing, of the fields of a query that may be missing."""

LIKELIEST = -2
"""Value of ``RowQuery.written``."""
CERTAINTY = ("", "sample", "margin", "spread")
"""Measures of how sure a distribution is of its token: the probability of the one that was drawn;
how far the likeliest is ahead of the next; the negative entropy, in nats. Their index is 0 where
none is asked for."""

Flags = np.ndarray
"""Which canvases or rows ask for something: bool [B] or [R], on the host."""
ALL = slice(None)
Some = Tensor | slice
"""Rows of a chunk: their indices [K], or ``ALL``."""


class Asks(dict[str, Flags]):
    """Which canvases, or rows, ask for more than the likeliest token; what nobody asks for is
    missing. Known to the host, so that the device is never asked.

    - drawn, tempered, narrow: temperature is not 0; nor 1; and top-p is below 1;
    - model: probabilities are told as the model gave them; reheated: and temperature changes them;
    - guided: there is a second row of hidden states;
    - sample, margin, spread: this ``CERTAINTY``;
    - entropy, tell, endless, official, no_eos, denoise: see there.
    """

    @classmethod
    def of(cls, **flags: Flags) -> Asks:
        """Without what nobody asks for."""
        return cls({name: of_each for name, of_each in flags.items() if of_each.any()})

    def of_rows(self, counts: np.ndarray) -> Asks:
        """The asks of rows, from those of canvases and the number of rows of each."""
        return Asks.of(**{n: np.repeat(of_each, counts) for n, of_each in self.items()})

    def of_all(self, rows: int) -> Asks:
        """Every row asks for what any canvas does; the query's fields say which rows mean it."""
        return Asks({n: np.ones(rows, dtype=bool) for n in self})

    @staticmethod
    def joined(parts: Sequence[tuple[Asks, int]]) -> Asks:
        """Of several parts of rows, each with its number of rows."""
        if len(parts) == 1:
            return parts[0][0]
        names = {name for asks, _ in parts for name in asks}
        return Asks.of(
            **{
                n: np.concatenate([a.get(n, np.zeros(rows, dtype=bool)) for a, rows in parts])
                for n in names
            }
        )


@dataclass(frozen=True)
class RowQuery:
    """The questions about each of R rows. A field that is None asks for nothing.

    Attributes:
        current: id that stands there now.
        u: uniforms for the categorical draw.
        temperature: divides the logits; 0 puts all mass on the likeliest id.
        top_p: mass of the nucleus.
        crossing: the id with which the mass exceeds ``top_p`` belongs to the nucleus, as in Hugging
            Face's samplers.
        certainty: how sure the distribution is that a token is drawn from: index in ``CERTAINTY``;
            0 for not asked.
        as_model: probabilities are told as the model gave them, and not as the token was drawn,
            after temperature and top-p.
        official: as LLaDA-XDLM's published loop has it: the mask is a token like any other, and
            what is told is a softmax in the network's own type, with its rounding.
        entropy: the entropy of the model's distribution is wanted.
        no_eos: the end token is never drawn.
        eos_last, eot_last: in what is told, the end token, or the end of a turn, has probability 0
            and the others share what it had.
        denoise: of the distribution that tokens are drawn from, the likeliest id, the entropy and
            the mean embedding are wanted.
        guidance_scale: w; rows with another value than 1 have a second row of hidden states.
        tell: the model's log-probabilities are wanted.
        written: id whose log-probability that is; -1 for the sample, ``LIKELIEST`` for the
            likeliest.
        bias_ids, bias: added to the logits, filled up with zeros to the longest.
    """

    current: Int[Tensor, " R"]
    u: Float[Tensor, " R"]
    temperature: Float[Tensor, " R"]
    top_p: Float[Tensor, " R"] | None = None
    crossing: Bool[Tensor, " R"] | None = None
    certainty: Int[Tensor, " R"] | None = None
    as_model: Bool[Tensor, " R"] | None = None
    official: Bool[Tensor, " R"] | None = None
    entropy: Bool[Tensor, " R"] | None = None
    no_eos: Bool[Tensor, " R"] | None = None
    eos_last: Bool[Tensor, " R"] | None = None
    eot_last: Bool[Tensor, " R"] | None = None
    denoise: Bool[Tensor, " R"] | None = None
    guidance_scale: Float[Tensor, " R"] | None = None
    tell: Bool[Tensor, " R"] | None = None
    written: Int[Tensor, " R"] | None = None
    bias_ids: Int[Tensor, "R M"] | None = None
    bias: Float[Tensor, "R M"] | None = None

    @classmethod
    def of(
        cls, columns: Mapping[str, Tensor], current: Tensor, u: Tensor, **own: Tensor
    ) -> RowQuery:
        """The query of rows by the columns of ``Now`` that have the names of its fields; whole
        numbers that stand for flags become flags.
        """
        asked = {n: columns[n] for n in RowQuery.__dataclass_fields__ if n in columns}
        flags = {n: asked[n] != 0 for n in asked if UNASKED.get(n) is False}
        return cls(**(asked | flags | {"current": current, "u": u} | own))

    def biased(self, ids: Int[Tensor, " R"], bias: Float[Tensor, " R"]) -> RowQuery:
        """The same with one more bias in each row."""
        ids, bias = ids[:, None], bias[:, None].to(self.u.dtype)
        if self.bias_ids is not None and self.bias is not None:
            ids, bias = torch.cat((self.bias_ids, ids), 1), torch.cat((self.bias, bias), 1)
        return replace(self, bias_ids=ids, bias=bias)

    def part(self, rows: slice) -> RowQuery:
        """The query for some of the rows."""
        return replace(self, **{n: t[rows] for n, t in self._asked()})

    def _asked(self) -> list[tuple[str, Tensor]]:
        fields = ((n, getattr(self, n)) for n in RowQuery.__dataclass_fields__)
        return [(n, t) for n, t in fields if t is not None]

    def _filled(self, name: str) -> Tensor:
        """A field, with values that ask for nothing where it is missing."""
        found = getattr(self, name)
        if found is not None:
            return found
        if name in UNASKED:
            return torch.full_like(self.current, UNASKED[name], dtype=_KINDS[type(UNASKED[name])])
        kind = self.current if name == "bias_ids" else self.u
        return kind.new_zeros(len(kind), 0)

    def asks(self) -> Asks:
        """Every row asks for every field that is there."""
        fields = {"narrow": "top_p", "model": "as_model", "guided": "guidance_scale"}
        fields |= dict.fromkeys(CERTAINTY[1:], "certainty")
        fields |= {n: n for n in ("entropy", "tell", "official", "no_eos", "denoise")}
        names = {n for n, f in fields.items() if getattr(self, f) is not None}
        names |= {"drawn", "tempered"} | ({"reheated"} if "model" in names else set())
        if self.eos_last is not None or self.eot_last is not None:
            names.add("endless")
        return Asks({n: np.ones(len(self.u), dtype=bool) for n in names})

    def chunks(self, vocab_size: int, asks: Asks | None = None, exact: bool = True) -> list[Chunk]:
        """The query in pieces whose logits fit.

        Args:
            vocab_size: N.
            asks: which rows ask for what.
            exact: whether each row is asked about, see ``Room``.
        """
        asks = self.asks() if asks is None else asks
        count = self.u.numel()
        size = rows_at_once(vocab_size, self.u.device)
        if count <= size:
            return [Chunk.of(slice(0, count), self, asks, count, exact)]
        pieces = [slice(at, min(at + size, count)) for at in range(0, count, size)]
        return [Chunk.of(rows, self.part(rows), asks, count, exact) for rows in pieces]

    @staticmethod
    def joined(queries: Sequence[RowQuery]) -> RowQuery:
        """Several queries, one after the other."""
        if len(queries) == 1:
            return queries[0]
        names = {n for q in queries for n, _ in q._asked()}
        return RowQuery(**{n: joined([q._filled(n) for q in queries]) for n in names})


_KINDS = {bool: torch.bool, int: torch.int64, float: torch.float64}


@dataclass(frozen=True)
class Chunk:
    """Some rows of a query, and which of them want more than the likeliest token.

    Attributes:
        rows: which of the query's.
        query: what is asked of them.
        asks: rows of the chunk by what they ask for; missing where none does.
        second: where the other hidden states of its rows under guidance are.
        may_ask: whether the device may be asked for a value: on a CPU that costs nothing.
    """

    rows: slice
    query: RowQuery
    asks: Mapping[str, Some]
    second: slice
    may_ask: bool

    @classmethod
    def of(cls, rows: slice, query: RowQuery, asks: Asks, total: int, exact: bool) -> Chunk:
        """``asks``: of all rows, ``total`` in number; ``exact``: each is asked about."""
        guided = asks.get("guided")
        before, within = (
            (0, 0) if guided is None else (guided[: rows.start].sum(), guided[rows].sum())
        )
        second = slice(total + int(before), total + int(before) + int(within))
        found: dict[str, Some] = {}
        for name, of_each in asks.items():
            mine = of_each[rows]
            if mine.all():
                found[name] = ALL
            elif mine.any():
                index = torch.from_numpy(mine.nonzero()[0])
                found[name] = to_device(index, query.u.device)
        return cls(rows, query, found, second, exact and query.u.device.type == "cpu")


def rows_at_once(vocab_size: int, device: torch.device) -> int:
    """How many rows of logits a chunk has."""
    return max(MIN_ROWS, CHUNK_ELEMENTS.get(device.type, CHUNK_ELEMENTS["cuda"]) // vocab_size)
