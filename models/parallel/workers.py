"""One network on several processes. Rank 0 is the process that serves. It tells the others the
packed input of each pass; they wait for the next one, and end with rank 0.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import re
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from models.base import DenoiserModule, Transformer
from models.cache import Segments
from models.checkpoints.malloc import keep_freed_memory
from models.checkpoints.weights import Header
from models.child_processes import end_with
from models.errors import UnsupportedConfig
from models.family import FamilyConfig
from models.parallel.tensor_parallel import check, sharded
from models.registry import FAMILIES, Built

PASS_SECONDS = 120  # a rank that does not answer for so long within a pass is lost
IDLE_DAYS = 365  # between passes they wait for requests
TERMINAL = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that a terminal sends to all ranks, or a script: they are rank 0's to answer."""
INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""Variables that say on which network interface ranks listen for each other."""


@dataclass(frozen=True)
class Share:
    """Everything that a rank needs to load its part.

    Attributes:
        family: its name in ``models.registry``.
        config: of the network.
        found: where the weights are stored.
        device: ``cpu`` or ``cuda``; rank r takes the r-th CUDA device.
        dtype: of the weights.
        ranks: how many.
        threads: of each rank on a CPU.
        meeting: a file that all ranks can write.
        leader: the process id of rank 0.
    """

    family: str
    config: FamilyConfig
    found: Mapping[str, Header]
    device: str
    dtype: torch.dtype
    ranks: int
    threads: int
    meeting: Path
    leader: int

    def place(self, rank: int) -> torch.device:
        """The device of a rank."""
        return torch.device(self.device, rank) if self.device == "cuda" else torch.device("cpu")


class Leader:
    """Rank 0's ``Denoiser``; one thread uses it at a time."""

    classes = 0

    def __init__(
        self, share: Share, ranks: Sequence[BaseProcess], lost: Callable[[int], None]
    ) -> None:
        """Meet the other ranks and load this one's share.

        Args:
            share: what is loaded.
            ranks: the other processes, rank 1 first.
            lost: called once, on a thread of its own, with a rank that ended by itself.
        """
        self.ranks, self._lost, self._closed = ranks, lost, False
        threading.Thread(target=self._watch, name="xdlm-ranks", daemon=True).start()
        atexit.register(
            self.close
        )  # before multiprocessing ends them, which would look like a loss
        self._network, self._passes = joined(share, 0)

    def trunk(
        self,
        tokens: Tensor,
        offsets: Tensor,
        rows: Tensor | None = None,
        labels: Tensor | None = None,
        segments: Segments | None = None,
    ) -> Tensor:
        """See ``Denoiser``. A pass that fails ends the other ranks, whose progress is unknown.

        Raises:
            RuntimeError: a rank has ended, or did not answer within ``PASS_SECONDS``.
        """
        if labels is not None:
            raise ValueError("this network takes no labels")
        if rows is None:
            rows = torch.arange(tokens.numel(), device=tokens.device)
        with self._together():
            given = [part for part in segments or () if part is not None]
            self._passes.tell((tokens, offsets, rows, *map(torch.from_numpy, given)))
            return self._network.trunk(tokens, offsets, rows, segments=segments)

    def reserve(self, slots: int) -> None:
        """See ``Denoiser``: each rank keeps those of its own heads.

        Raises:
            RuntimeError: as ``trunk``.
        """
        with self._together():
            self._passes.tell((torch.tensor([slots]),))
            _reserved(self._network, slots, 1 + len(self.ranks))

    def copy_slots(self, sources: np.ndarray, targets: np.ndarray) -> None:
        """See ``Denoiser``.

        Raises:
            RuntimeError: as ``trunk``.
        """
        with self._together():
            self._passes.tell((torch.from_numpy(sources), torch.from_numpy(targets)))
            self._network.copy_slots(sources, targets)

    def head(self, hidden: Tensor) -> Tensor:
        """See ``Denoiser``."""
        return self._network.head(hidden)

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Work of all ranks; where it fails here, the others end, whose progress is unknown."""
        try:
            if ended := self._ended(0):  # gloo may wait for a peer that is gone
                raise RuntimeError(f"rank {ended} of the model has ended")
            yield
        except Exception:
            for rank in self.ranks:
                rank.kill()
            raise

    def close(self) -> None:
        """End the other ranks."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        for rank in self.ranks:
            rank.kill()
        for rank in self.ranks:
            rank.join()
        if dist.is_initialized():
            dist.destroy_process_group()

    def _watch(self) -> None:
        ended = self._ended()
        if not self._closed:
            self._lost(ended)

    def _ended(self, seconds: float | None = None) -> int:
        """The first rank that has ended, 0 if none does in time. Its sentinel says so a moment
        before ``is_alive`` does.
        """
        sentinels = [rank.sentinel for rank in self.ranks]
        ended = wait(sentinels, seconds)
        return min((i for i, one in enumerate(sentinels, 1) if one in ended), default=0)


class Passes:
    """How rank 0 tells the others what to run: sizes, then packed arrays of integers. They go by
    gloo, which can wait for a year where a kernel of NCCL would spin.
    """

    MOST = 3 + len(Segments._fields)
    """Arrays of a message."""

    def __init__(self) -> None:
        """Called by all ranks together."""
        group = dist.new_group(backend="gloo", timeout=timedelta(days=IDLE_DAYS))
        assert isinstance(group, dist.ProcessGroup)  # this process is in it
        self._group = group

    def begin(self) -> None:
        """Wait until all ranks have loaded their share, however long they take."""
        dist.barrier(self._group)

    def tell(self, arrays: Sequence[Tensor]) -> None:
        """Rank 0's side.

        Raises:
            RuntimeError: a rank is gone, or did not answer within ``PASS_SECONDS``.
        """
        sizes = torch.tensor([a.numel() for a in arrays] + [-1] * (self.MOST - len(arrays)))
        for sent in (sizes, torch.cat([a.cpu().long() for a in arrays])):
            work = dist.broadcast(sent, 0, group=self._group, async_op=True)
            assert work is not None  # this process is in the group
            work.wait(timedelta(seconds=PASS_SECONDS))

    def next(self) -> Sequence[Tensor]:
        """The other ranks' side; waits.

        Raises:
            RuntimeError: rank 0 is gone.
        """
        sizes = torch.zeros(self.MOST, dtype=torch.long)
        dist.broadcast(sizes, 0, group=self._group)
        sizes = sizes[sizes >= 0]
        packed = torch.zeros(int(sizes.sum()), dtype=torch.long)
        dist.broadcast(packed, 0, group=self._group)
        return packed.split(sizes.tolist())


def started(
    built: Built,
    found: Mapping[str, Header],
    device: torch.device,
    dtype: torch.dtype,
    ranks: int,
    lost: Callable[[int], None],
) -> Leader:
    """Load a network on this process and ``ranks - 1`` new ones; it is on the meta device still.

    Args:
        built: the network, its family and its config.
        found: its stored weights, already compared.
        device: ``cpu`` or ``cuda`` without a number.
        dtype: of the weights.
        ranks: processes, this one included.
        lost: see ``Leader``.

    Raises:
        UnsupportedConfig: it cannot be divided so, or there are not as many devices.
        CheckpointError: damaged weights, or see ``weights.checked``.
    """
    check(built.spec, built.config, ranks)
    if device.index is not None:
        raise UnsupportedConfig(f"tensor parallelism takes the first {ranks} devices: no {device}")
    if device.type == "cuda" and torch.cuda.device_count() < ranks:
        raise UnsupportedConfig(f"{ranks} ranks need as many CUDA devices")
    threads = max(1, torch.get_num_threads() // ranks)
    new = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="xdlm-ranks-") as folder:
        meeting = Path(folder) / "meeting"
        share = Share(
            family=built.spec.name,
            config=built.config,
            found=found,
            device=device.type,
            dtype=dtype,
            ranks=ranks,
            threads=threads,
            meeting=meeting,
            leader=os.getpid(),
        )
        others = [new.Process(target=follow, args=(share, r), daemon=True) for r in range(1, ranks)]
        for process in others:
            process.start()
        return Leader(share, others, lost)


def follow(share: Share, rank: int) -> None:
    """Run as another rank, until rank 0 is gone."""
    end_with(share.leader)
    for number in TERMINAL:
        signal.signal(number, signal.SIG_IGN)
    keep_freed_memory()
    network, passes = joined(share, rank)
    while True:
        try:
            told = passes.next()
        except RuntimeError:
            return
        if len(told) == 1:
            _reserved(network, int(told[0]), share.ranks)
            continue
        if len(told) == 2:
            network.copy_slots(told[0].numpy(), told[1].numpy())
            continue
        segments = Segments(*(array.numpy() for array in told[3:])) if told[3:] else None
        tokens, offsets, rows = (array.to(share.place(rank)) for array in told[:3])
        with torch.inference_mode():
            network.trunk(tokens, offsets, rows, segments=segments)


def _reserved(network: DenoiserModule, slots: int, ranks: int) -> None:
    """Make room in a rank's share of a network."""
    assert isinstance(network, Transformer)  # others cannot be divided
    network.reserve(slots, ranks)


def joined(share: Share, rank: int) -> tuple[DenoiserModule, Passes]:
    """Meet the other ranks, load one's own share, and wait until all have done so."""
    device = share.place(rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(share.threads)
    keep_to_loopback()
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        init_method=share.meeting.as_uri(),
        world_size=share.ranks,
        rank=rank,
        timeout=timedelta(seconds=PASS_SECONDS),
    )
    passes = Passes()
    mesh = init_device_mesh(device.type, (share.ranks,))
    network = sharded(
        FAMILIES[share.family],
        share.config,
        share.found,
        device,
        share.dtype,
        mesh,
        with_head=rank == 0,
    )
    passes.begin()
    return network, passes


def keep_to_loopback() -> None:
    """Have the ranks, which are all on this machine, listen for each other on its loopback
    interface alone. Without that gloo takes the address that the machine's name leads to. Where a
    variable names an interface already, it stays.
    """
    found = [name for _, name in socket.if_nameindex() if re.fullmatch(r"lo\d*", name)]
    for variable in INTERFACES:
        if found:
            os.environ.setdefault(variable, found[0])
