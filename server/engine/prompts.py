"""Prompts of running requests that begin alike, on a network with block-causal attention."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import structlog
import torch

from models.interface import Denoiser
from server.engine.caching import Caching, given_ids
from server.engine.canvases import Canvases
from server.engine.prefixes import Keys, Prefixes, shared
from server.engine.slots import Slots
from server.engine.stream import Subscription

log = structlog.get_logger()


@dataclass(frozen=True)
class _Begun:
    """A request whose prompt is not known yet.

    Attributes:
        canvases: those that its canvas is among.
        keys: of its prompt.
    """

    canvases: Canvases
    keys: Keys


class SharedPrompts:
    """Gives requests the keys and values of prompts that were computed before. Of requests that
    come together, one computes what they share and the others wait for a step.
    """

    def __init__(self, network: Denoiser, caching: Caching, slots: Slots) -> None:
        """No prompts yet; nothing is shared where keys and values are not exact."""
        length = caching.prefix_length
        self._network = network
        self._prefixes = None if length is None else Prefixes(length, slots)
        self._computing: dict[Subscription, _Begun] = {}
        self._waiting: dict[Subscription, _Begun] = {}

    def __bool__(self) -> bool:
        """Whether any request waits for another."""
        return bool(self._waiting)

    def begun(self, canvases: Canvases, owner: Subscription) -> None:
        """A canvas was created."""
        guided = owner.request.params.guidance_scale != 1.0  # its copy has another prompt
        if self._prefixes is None or owner.cache_start < 0 or guided:
            return
        keys = self._prefixes.keys_of(given_ids(owner.request))
        if keys:
            self._waiting[owner] = _Begun(canvases, keys)
            canvases.pause(canvases.slots_of([owner]))

    def forget(self, owners: Collection[Subscription]) -> None:
        """Requests are paused or at their end: they wait for nobody, and nobody waits for them."""
        for owner in owners:
            self._waiting.pop(owner, None)
            self._computing.pop(owner, None)

    def before_step(self) -> int:
        """Let those begin that wait for nobody, with what is known of their prompts.

        Returns:
            positions whose keys and values were copied.
        """
        reused = 0
        for owner, begun in list(self._waiting.items()):
            assert self._prefixes is not None
            known = self._prefixes.known(begun.keys)
            others = (b.keys for o, b in self._computing.items() if b.canvases.runs(o))
            if any(shared(begun.keys, keys) > known for keys in others):
                continue
            del self._waiting[owner]
            slot = begun.canvases.slots_of([owner])
            if known:
                reused += self._adopt(owner, begun, int(slot[0]))
            begun.canvases.resume(slot)
            if known < len(begun.keys):
                self._computing[owner] = begun
        return reused

    def _adopt(self, owner: Subscription, begun: _Begun, slot: int) -> int:
        assert self._prefixes is not None
        sources = self._prefixes.slots_of(begun.keys)
        count = len(sources)
        targets = owner.cache_start + np.arange(count)
        try:
            self._network.copy_slots(sources, targets)
        except torch.AcceleratorError:
            raise
        except Exception:  # no memory for it: the request computes its prompt itself
            log.exception("keys and values of a prompt could not be copied")
            return 0
        begun.canvases.adopt(slot, count)
        return count

    def after_step(self) -> None:
        """Remember the prompts that the step has computed."""
        for owner, begun in list(self._computing.items()):
            if not len(begun.canvases.slots_of([owner])):
                del self._computing[owner]
            elif begun.canvases.has_stepped(owner):
                assert self._prefixes is not None
                self._prefixes.add(begun.keys, owner.cache_start)
                del self._computing[owner]
