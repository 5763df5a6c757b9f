"""The canvases of one sampler that have begun, with the requests they belong to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Int

from sampler.batch import COLUMNS, CanvasBatch, bias_columns, regions_of
from sampler.cache import CacheColumns
from sampler.deadline import shortened
from sampler.interface import Sampler
from sampler.layout import Layout
from sampler.params import MAX_STEPS
from sampler.proposed import rows_asked
from sampler.state import SamplerState
from sampler.step import StepResult
from sampler.transition import OPS
from server.engine.arena import Arena, places_of
from server.engine.caching import Caching
from server.engine.events import Done, Tally, opening_of
from server.engine.part import GONE, Part
from server.engine.stream import Subscription
from server.engine.table import Table

UNKNOWN = -1


class Canvases:
    """All canvases of one sampler. Joining, leaving and waiting are bookkeeping on the host; the
    device has the tokens of those that run.
    """

    def __init__(
        self, name: str, sampler: Sampler, arena: Arena, device: torch.device, caching: Caching
    ) -> None:
        """None so far. ``name``: of the sampler."""
        self._caching = caching
        self.name = name
        self.sampler = sampler
        self._arena = arena
        self._device = device
        self._table = Table()
        self._slots: dict[Subscription, int] = {}
        self._owners: dict[int, Subscription] = {}
        self._lists: dict[int, np.ndarray] = {}  # of its ``SamplerState``
        self._state: type[SamplerState] = SamplerState
        self._running: Int[np.ndarray, " R"] = np.zeros(0, dtype=np.int64)
        self._part: Part | None = None

    def __len__(self) -> int:
        """How many are running."""
        return len(self._running)

    # Coming and going ----------------------------------------------------------------------------

    def begin(self, owners: Sequence[Subscription]) -> list[np.ndarray]:
        """Create the canvases of new requests from the prior. Changes nothing if it raises.

        Returns:
            the first tokens of each.
        """
        requests = [o.request for o in owners]
        given = CanvasBatch.of(
            [r.canvas for r in requests],
            regions=[r.region for r in requests],
            opening=opening_of(requests),
        )
        batch = self.sampler.begin(given)
        lengths, tokens = batch.lengths.numpy(), batch.tokens.numpy()
        asked = np.full(len(owners), UNKNOWN)
        if self._device.type != "cpu":
            asked = rows_asked(self.sampler, batch)
        columns = {name: column.numpy() for name, column in batch.columns().items()}
        columns |= {
            "length": lengths,
            "shown": np.array([len(r.tokens) for r in requests]),
            "first": batch.host.first.numpy(),
            "asked": asked,
            "deadline": np.array([o.submitted + (o.request.budget or math.inf) for o in owners]),
            "through_ends": np.array([bool(r.through_ends) for r in requests]),
            "wants_steps": np.array([bool(r.wants_steps) for r in requests]),
        }
        if self._caching.slots:
            columns |= self._caching.columns(requests, [o.cache_start for o in owners])
        columns |= dict.fromkeys(("forwards", *OPS), np.zeros(len(owners), dtype=np.int64))
        lists = _lists_of(batch.own, len(owners))
        pinned = None if batch.host.pinned is None else batch.host.pinned.numpy()
        starts = self._arena.admit(lengths, tokens, batch.editable.numpy(), batch.noise, pinned)
        try:
            slots = self._table.put({**columns, "start": starts})
        except BaseException:
            self._arena.release(starts, lengths)
            raise
        self._state = type(batch.own)
        for owner, slot, entries in zip(owners, slots.tolist(), lists, strict=True):
            self._slots[owner], self._owners[slot], self._lists[slot] = slot, owner, entries
        self._running, self._part = np.concatenate((self._running, slots)), None
        return np.split(tokens, lengths.cumsum()[:-1])

    def slots_of(self, owners: Iterable[Subscription]) -> Int[np.ndarray, " G"]:
        """The slots of those requests that are here."""
        found = [self._slots[o] for o in owners if o in self._slots]
        return np.array(found, dtype=np.int64)

    def pause(self, slots: Int[np.ndarray, " G"]) -> None:
        """Let canvases take no part in steps."""
        stays = ~np.isin(self._running, slots)
        if stays.all():
            return
        part = self._part
        if part is not None:
            # on a CPU a batch is exactly what runs; a device is told with the next step's settings
            part = None if self._device.type == "cpu" else part.without(slots)
        self._running, self._part = self._running[stays], part

    def resume(self, slots: Int[np.ndarray, " G"]) -> None:
        """Let them take part again."""
        back = slots[~np.isin(slots, self._running)]
        if len(back):
            self._running, self._part = np.concatenate((self._running, back)), None

    def adopt(self, slot: int, count: int) -> None:
        """The keys and values of a canvas' first positions, which are given, have been copied."""
        start = int(self._table["start"][slot])
        held = slice(start, start + count)
        self._arena.held[held] = self._arena.tokens[held]

    def runs(self, owner: Subscription) -> bool:
        """Whether a request takes part in the next step."""
        return owner in self._slots and bool((self._running == self._slots[owner]).any())

    def has_stepped(self, owner: Subscription) -> bool:
        """Whether the network has run a request's canvas."""
        return bool(self._table["forwards"][self._slots[owner]] > 0)

    def drop(self, slots: Int[np.ndarray, " G"]) -> None:
        """Forget canvases."""
        if not len(slots):
            return
        self.pause(slots)
        self._arena.release(self._table["start"][slots], self._table["length"][slots])
        gone = slots.tolist()
        self._table.drop(gone)
        for slot in gone:
            del self._slots[self._owners.pop(slot)], self._lists[slot]

    # Steps ---------------------------------------------------------------------------------------

    def part(self, now: float, pace: float) -> Part:
        """All that run, with fewer remaining steps for those that would miss their latency budget
        at ``pace`` seconds per step.
        """
        if self._part is None:
            self._part = self.part_of(self._running)
        part, batch = self._part, self._part.batch
        deadlines = np.where(part.slots == GONE, np.inf, self._table["deadline"][part.slots])
        if np.isfinite(deadlines).any():
            calls = ((torch.from_numpy(deadlines) - now) / pace).clamp(max=MAX_STEPS).floor().long()
            left = (calls - (batch.calls - batch.steps)).clamp(min=1)
            self._part = replace(part, batch=shortened(batch, left))
            self._take_in(part, self._part.batch)
        return self._part

    def part_of(self, slots: Int[np.ndarray, " B"]) -> Part:
        """Some canvases, as the last step left them."""
        columns = self._table.take(slots)
        lengths = columns["length"].numpy()
        places = places_of(columns["start"].numpy(), lengths)
        editable, pinned = self._arena.editable[places], self._arena.pinned[places]
        host = Layout.of(lengths, editable, columns["first"].numpy(), pinned)
        mirror = torch.from_numpy(self._arena.tokens[places])
        layout, tokens = host.sent(mirror, self._device)
        owners = [self._owners[slot] for slot in slots.tolist()]
        bias_ids, bias = bias_columns([o.request.params for o in owners])
        own = {n: columns.pop(f"own.{n}") for n in self._state.of_canvases()}
        if self._state.lists:
            lists = np.concatenate([self._lists[slot] for slot in slots.tolist()], axis=1)
            own |= zip(self._state.lists, torch.from_numpy(lists).unbind(0), strict=True)
        asked = columns["asked"].numpy()
        batch = CanvasBatch(
            tokens=tokens,
            host=host,
            layout=layout,
            **{n: columns[n] for n in COLUMNS},
            bias_ids=bias_ids,
            bias=bias,
            own=self._state(**own),
            mirror=mirror,
            cache=self._cache(columns),
            held=self._arena.held[places] if self._caching.slots else None,
            regions=regions_of([o.request.region for o in owners]),
            noise=self._arena.noise[places],
            stands=None,
            asked=None if (asked == UNKNOWN).any() else asked,
        )
        return Part(self, slots, places, list(owners), batch)

    def _cache(self, columns: dict[str, torch.Tensor]) -> CacheColumns | None:
        """Settings and state of the caches of the canvases with these columns."""
        if not self._caching.slots:
            return None
        return CacheColumns(**{n: columns[f"cache.{n}"] for n in CacheColumns.names()})

    def commit(self, part: Part, result: StepResult) -> None:
        """Take in the result of a part's step."""
        table, slots = self._table, part.slots[part.present]
        host, rows = part.batch.host, result.change.rows.numpy()
        canvas, position = host.canvas.numpy()[rows], host.position.numpy()[rows]
        told = position < self.shown(part)[canvas]
        kinds = (canvas * len(OPS) + result.change.op.numpy())[told]
        counts = np.bincount(kinds, minlength=len(OPS) * len(part.slots)).reshape(-1, len(OPS))
        after, written = result.batch.on_host.tokens.numpy(), part.positions
        self._take_in(part, result.batch)
        self._arena.tokens[part.places[written]] = after[written]
        if (held := result.batch.held) is not None and held is not part.batch.held:
            self._arena.held[part.places[written]] = held[written]
        if (noise := result.batch.noise) is not None and noise is not part.batch.noise:
            self._arena.noise[part.places[written]] = noise[written]
        for name, count in zip(OPS, counts[part.present].T, strict=True):
            table[name][slots] += count
        table["forwards"][slots] += result.forwards.numpy()[part.present]
        self._part = replace(part, batch=result.batch) if part is self._part else None

    def _take_in(self, part: Part, batch: CanvasBatch) -> None:
        """Write what a batch has changed into the table."""
        if batch is part.batch:
            return
        present, slots = part.present, part.slots[part.present]
        own, known = batch.own, part.batch.own
        changed = {n: c for n in COLUMNS if (c := getattr(batch, n)) is not getattr(part.batch, n)}
        if own is not known:
            both = ((n, getattr(own, n), getattr(known, n)) for n in own.of_canvases())
            changed |= {f"own.{n}": new for n, new, old in both if new is not old}
        if (cache := batch.cache) is not None and cache is not part.batch.cache:
            changed |= {"cache.refreshed": cache.refreshed, "cache.block": cache.block}
        for name, column in changed.items():
            self._table[name][slots] = column.numpy()[present]
        if batch.asked is not part.batch.asked:
            self._table["asked"][slots] = UNKNOWN if batch.asked is None else batch.asked[present]
        if own is not known and any(getattr(own, n) is not getattr(known, n) for n in own.lists):
            lists = _lists_of(own, len(part.slots))
            for slot, entries in zip(part.slots.tolist(), lists, strict=True):
                if slot != GONE:
                    self._lists[slot] = entries

    # Requests ------------------------------------------------------------------------------------

    def wants_steps(self, part: Part) -> bool:
        """Whether anyone reads the steps of a part's canvases."""
        return bool(self._table["wants_steps"][part.slots[part.present]].any())

    def shown(self, part: Part) -> Int[np.ndarray, " B"]:
        """Positions of each canvas of a part that events tell of."""
        return self._table["shown"][part.slots]

    def reads_through_ends(self, part: Part) -> Bool[np.ndarray, " B"]:
        """Flags of the canvases of a part: end tokens do not end the text."""
        return self._table["through_ends"][part.slots] != 0

    def done(self, slot: int, now: float) -> Done:
        """The end of a request with its canvas as it stands: tokens, steps, network evaluations,
        changes and times.
        """
        owner, table = self._owners[slot], self._table
        start, length = int(table["start"][slot]), int(table["shown"][slot])
        unmasked, refined, remasked = (int(table[name][slot]) for name in OPS)
        tally = Tally(
            steps=int(min(table["step"][slot], table["steps"][slot])),
            forwards=int(table["forwards"][slot]),
            positions=sum(owner.request.editable),
            unmasked=unmasked,
            refined=refined,
            remasked=remasked,
            queue_ms=1e3 * (owner.admitted - owner.submitted),
            denoise_ms=1e3 * (now - owner.admitted),
        )
        return Done(tuple(self._arena.tokens[start : start + length].tolist()), tally)

    def owners_of(self, slots: Int[np.ndarray, " G"]) -> list[tuple[int, Subscription]]:
        """Slots with the requests that they belong to."""
        return [(slot, self._owners[slot]) for slot in slots.tolist()]


def _lists_of(state: SamplerState, count: int) -> list[np.ndarray]:
    """The lists of each of ``count`` canvases, [lists, length]."""
    if not state.lists:
        return [np.zeros((0, 0), dtype=np.int64)] * count
    together = np.stack([getattr(state, n).numpy() for n in state.lists])
    return np.split(together, getattr(state, state.list_lengths).numpy().cumsum()[:-1], axis=1)
