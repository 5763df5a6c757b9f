"""Tensor parallelism for LLaDA: each rank has a share of every block.

Torch's own plan: the projections to heads and to the feed-forward width are split by columns, those
back by rows, so a block adds up its shares twice. The embedding is held by all. The head is held by
rank 0 alone: what a sampler reads of a row needs the whole vocabulary in one place, it asks for few
rows of a canvas, and so the head costs no communication and the other ranks have nothing to follow
but ``trunk``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
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
from models.checkpoints.meta_init import without_values
from models.checkpoints.weights import Header
from models.errors import UnsupportedConfig
from models.families.llada import LLaDA, LLaDAConfig

BY_COLUMNS = ("q_proj", "k_proj", "v_proj", "ff_proj", "up_proj")
BY_ROWS = ("attn_out", "ff_out")


def check(network: DenoiserModule, ranks: int) -> LLaDA:
    """The network, if it can be divided among so many ranks.

    Raises:
        UnsupportedConfig: it cannot. The message names what is in the way.
    """
    if not isinstance(network, LLaDA):
        raise UnsupportedConfig(f"tensor parallelism is for llada, not {network.family}")
    for field in ("n_heads", "n_kv_heads", "mlp_hidden_size"):
        size = getattr(network.config, field)
        if size % ranks:
            raise UnsupportedConfig(f"{field} = {size} cannot be divided among {ranks} ranks")
    return network


def sharded(
    config: LLaDAConfig,
    found: Mapping[str, Header],
    device: torch.device,
    dtype: torch.dtype,
    mesh: DeviceMesh,
    with_head: bool,
) -> LLaDA:
    """A rank's share of a network; of a divided tensor no more than the share is read.

    Args:
        config: of the whole network.
        found: where its weights are stored.
        device: of this rank.
        dtype: of the weights.
        mesh: all ranks.
        with_head: the head is wanted, if it has weights of its own.

    Raises:
        CheckpointError: damaged weights, or see ``weights.checked``.
    """
    with without_values():
        network = LLaDA(config)
    if not (with_head or config.weight_tying):
        parts: Any = network.model["transformer"]
        del parts["ff_out"]
    block = "model.transformer.blocks.*."
    plan: dict[str, ParallelStyle] = {block + name: ColwiseParallel() for name in BY_COLUMNS}
    plan |= {block + name: RowwiseParallel() for name in BY_ROWS}
    parallelize_module(network, mesh, plan)
    wanted = network.state_dict()
    rank = mesh.get_local_rank()

    def part(file: Any, header: Header) -> Tensor:
        like = wanted[weights.plain_name(header.key)]
        if not isinstance(like, DTensor):
            return weights.whole(file, header)
        (placement,) = like.placements
        along = placement.dim  # type: ignore[attr-defined]
        size = like.shape[along] // mesh.size()
        mine = slice(rank * size, (rank + 1) * size)
        stored = file.get_slice(header.key)
        return (stored[mine] if along == 0 else stored[:, mine]).contiguous()

    here = {name: header for name, header in found.items() if name in wanted}
    state = weights.read(network, here, device, dtype, part)
    for name, like in wanted.items():
        if isinstance(like, DTensor):
            state[name] = DTensor.from_local(state[name], mesh, like.placements, run_check=False)
    weights.put(network, state)
    network.ready(device)
    return network.eval()
