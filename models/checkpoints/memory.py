"""Memory that a network needs, computed from its shapes, and memory that a device has."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from models.base import DenoiserModule

CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)
"""Files with the limit and the use of this process's group: version 2, version 1."""
WIDTHS, INNERS = 11, 3
"""Rows of the network's width, and of its widest inner layer, that are alive at once for a
position: residual stream, norm, queries, keys and values, padded, their mixture; gate, up and
product. A step of a 62 M LLaDA in float32 on a CPU took 25, 56 and 189 MB at its peak at 256, 1,024
and 4,096 positions, a little less than follows from these numbers."""


@dataclass(frozen=True)
class Needs:
    """Sizes that decide what memory a network takes.

    Attributes:
        narrow: numbers that have the type of the weights.
        wide: numbers that stay in float32.
        width: of the network.
        inner: of its widest layer but for the head.
        vocab_size: of a row of logits.
        outer: numbers of the embedding and of the head, among ``narrow``.
    """

    narrow: int
    wide: int
    width: int
    inner: int
    vocab_size: int
    outer: int = 0

    def weights(self, itemsize: int) -> int:
        """Bytes of the weights in a type of ``itemsize`` bytes."""
        return self.narrow * itemsize + self.wide * 4

    def positions(self, count: int, itemsize: int) -> int:
        """Bytes that a run of the network over ``count`` positions needs beside them, estimated."""
        return count * itemsize * (WIDTHS * self.width + INNERS * self.inner)


def needs_of(network: DenoiserModule, vocab_size: int) -> Needs:
    """The sizes of a network, which may be on the meta device."""
    state = network.state_dict()
    sizes = {name: tensor.numel() for name, tensor in state.items()}
    wide = sum(n for name, n in sizes.items() if any(part in name for part in network.wide))
    matrices = [tensor.shape for tensor in state.values() if tensor.dim() == 2]
    inner = max((max(shape) for shape in matrices if vocab_size not in shape), default=0)
    width = max((min(shape) for shape in matrices if vocab_size in shape), default=inner)
    outer = sum(shape.numel() for shape in matrices if vocab_size in shape)
    return Needs(sum(sizes.values()) - wide, wide, width, inner, vocab_size, outer)


def available_memory(device: torch.device) -> int:
    """Bytes that a device can still give; a CPU those of the machine, or of its control group."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        found.append(int(line.split()[1]) * 1024)
    for limit, use in CGROUPS:
        with suppress(OSError, ValueError):  # not there, or "max"
            free = int(Path(limit).read_text()) - int(Path(use).read_text())
            found.append(max(0, free) + _cached(Path(limit).parent))
    return min(found)


def _cached(group: Path) -> int:
    """Bytes of a control group that are pages of files, given back when they are needed."""
    with suppress(OSError, ValueError):
        said = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return int(said.get("inactive_file", 0))
    return 0
