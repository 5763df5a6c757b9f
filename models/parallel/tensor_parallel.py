"""Tensor parallelism: each rank has a share of every block, as the family's ``ShardPlan`` says.

The projections to heads and to the feed-forward width are split by columns, those back by rows, so
a block adds up its shares twice (Megatron-LM, arXiv:1909.08053). The embedding is held by all. The
head is held by rank 0 alone: a sampler needs the whole vocabulary of a row in one place and few
rows of a canvas, so the head costs no communication and the other ranks run ``trunk`` alone.
Each rank has a share of every expert, and routes for itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    parallelize_module,
)

from models.base import DenoiserModule
from models.checkpoints import weights
from models.checkpoints.filling import put, weights_of
from models.checkpoints.meta_init import without_values
from models.checkpoints.weights import Header
from models.errors import UnsupportedConfig
from models.families.experts import Experts
from models.family import FamilyConfig, FamilySpec, ShardPlan
from models.registry import FAMILIES


def check(spec: FamilySpec, config: FamilyConfig, ranks: int) -> ShardPlan:
    """The plan of a network, if it can be divided among ``ranks`` processes.

    Raises:
        UnsupportedConfig: it cannot. The message names what is in the way.
    """
    if spec.shards is None:
        able = ", ".join(name for name, other in FAMILIES.items() if other.shards is not None)
        raise UnsupportedConfig(f"tensor parallelism is for {able}, not {spec.name}")
    for field in spec.shards.sizes:
        size = getattr(config, field)
        if size % ranks:
            raise UnsupportedConfig(f"{field} = {size} cannot be divided among {ranks} ranks")
    return spec.shards


def sharded(
    spec: FamilySpec,
    config: FamilyConfig,
    found: Mapping[str, Header],
    device: torch.device,
    dtype: torch.dtype,
    mesh: DeviceMesh,
    with_head: bool,
) -> DenoiserModule:
    """A rank's share of a network; of a divided tensor no more than the share is read.

    Args:
        spec: the family.
        config: of the whole network.
        found: where its weights are stored.
        device: of this rank.
        dtype: of the weights.
        mesh: all ranks.
        with_head: the head is wanted, if it has weights of its own.

    Raises:
        CheckpointError: damaged weights, or see ``weights.checked``.
    """
    plan = check(spec, config, mesh.size())
    with without_values():
        network = spec.build(config)
    if not with_head:
        _drop(network, plan.head)
    styles: dict[str, ParallelStyle] = {}
    for name, _ in network.named_modules():  # a plan may have layers that this network lacks
        if any(fnmatchcase(name, pattern) for pattern in plan.columns):
            styles[name] = ColwiseParallel()
        elif any(fnmatchcase(name, pattern) for pattern in plan.rows):
            styles[name] = RowwiseParallel()
    parallelize_module(network, mesh, styles)
    for module in network.modules():
        if isinstance(module, Experts):
            module.divide(mesh.size())
            module.register_forward_hook(_summed)
    wanted = network.stored()
    rank = mesh.get_local_rank()

    def part(file: Any, header: Header) -> Tensor:
        like = wanted[weights.plain_name(header.key)]
        share = (like.to_local() if isinstance(like, DTensor) else like).shape
        pairs = enumerate(zip(header.shape, share, strict=True))
        divided = [dim for dim, (all_, own) in pairs if all_ != own]
        if not divided:
            return weights.whole(file, header)
        (along,) = divided
        mine = slice(rank * share[along], (rank + 1) * share[along])
        return weights.sliced(file, header, along, mine)

    here = {name: header for name, header in found.items() if name in wanted}
    state = dict(weights_of(network, here, device, dtype, part))
    for name, like in network.state_dict().items():
        if isinstance(like, DTensor):
            state[name] = DTensor.from_local(state[name], mesh, like.placements, run_check=False)
    put(network, state)
    network.ready(device)
    return network.eval()


def _summed(_module: nn.Module, _inputs: object, out: Tensor) -> Tensor:
    """Add up the ranks' shares of an output."""
    dist.all_reduce(out)
    return out


def _drop(network: nn.Module, name: str) -> None:
    """Remove a module, if the network has one of this name."""
    parent, _, last = name.rpartition(".")
    if hasattr(holder := network.get_submodule(parent), last):
        delattr(holder, last)
