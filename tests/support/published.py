"""Golden checkpoints of tests/golden/families as folders, and their networks."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from models.base import DenoiserModule
from models.checkpoints.load import load_network
from models.checkpoints.random_init import write_random
from models.families.decoder import Decoder
from models.registry import FAMILIES, build
from sampler.logits.head import logits_of
from tests.conftest import GOLDEN, Golden


def write_folder(folder: Path, file: Golden, **changes: object) -> Path:
    """A folder as it is published; ``changes`` are fields of its config.json."""
    folder.mkdir()
    weights = {
        name.removeprefix("weights."): tensor
        for name, tensor in file.tensors.items()
        if name.startswith("weights.")
    }
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(file.meta["config"] | changes))
    return folder


def vocab_size(network: DenoiserModule) -> int:
    assert isinstance(network, Decoder)
    return network.config.vocab_size


def run(network: DenoiserModule, *sequences: Tensor) -> list[Tensor]:
    """Logits of several sequences in one pass, as the network predicts each position."""
    lengths = [len(s) for s in sequences]
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    with torch.inference_mode():
        hidden = network.trunk(torch.cat(sequences), offsets)
        return list(logits_of(network.head, hidden, vocab_size(network)).split(lengths))


def close(found: Tensor, expected: Tensor, atol: float = 5e-5) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def same_bits_in_company(folder: Path, family: str) -> None:
    """Sequences alone, in company, and with few rows asked for.

    Of a random network whose widths are multiples of a vector register's: at the end of an odd
    one element-wise functions are rounded in another way.
    """
    write_random(folder, FAMILIES[family].shapes["tiny"], family=family, dtype=torch.float32)
    network, lengths = load_network(folder), [1, 5, 16, 33, 64, 65, 100, 130]
    g, size = torch.Generator().manual_seed(0), vocab_size(network)
    sequences = [torch.randint(size, (n,), generator=g) for n in lengths]
    alone = [run(network, s)[0] for s in sequences]
    for _ in range(8):
        some = torch.randperm(len(lengths), generator=g)[:5].tolist()
        for i, found in zip(some, run(network, *(sequences[i] for i in some)), strict=True):
            assert torch.equal(found, alone[i])
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    tokens, whole = torch.cat(sequences), torch.cat(alone)
    with torch.inference_mode():
        for count in (1, 7, 33):
            rows = torch.randperm(len(tokens), generator=g)[:count]
            hidden = network.trunk(tokens, offsets, rows)
            assert torch.equal(logits_of(network.head, hidden, size), whole[rows])


def stored_shapes(config: dict[str, Any]) -> dict[str, list[int]]:
    """Names and shapes of the tensors of a config, built on the meta device."""
    network = build(config, None).network
    return {name: list(tensor.shape) for name, tensor in network.stored().items()}


def manifest(name: str) -> dict[str, Any]:
    """A full-size manifest."""
    return json.loads((GOLDEN / "manifests" / f"{name}.json").read_text())


def expanded(known: dict[str, Any]) -> dict[str, list[int]]:
    """Names and shapes of a manifest whose lists are patterns with inclusive ranges."""
    found = {}
    for entry in known["patterns"]:
        for numbers in product(*(range(low, high + 1) for low, high in entry["ranges"])):
            found[entry["key"].format(*numbers)] = entry["shape"]
    return found


def with_blocks(network: DenoiserModule, length: int) -> DenoiserModule:
    """The network with another length of blocks."""
    assert isinstance(network, Decoder)
    network.block_length = length
    return network


def check_forwards(network: DenoiserModule, tensors: dict[str, Tensor]) -> None:
    """Compare the stored forwards ``f0``, ``f1``, ... of a block-causal family."""
    count = 0
    while (ids := tensors.get(f"f{count}.input_ids")) is not None:
        with_blocks(network, int(tensors[f"f{count}.block_length"]))
        close(run(network, ids)[0], tensors[f"f{count}.logits"])
        count += 1
    assert count >= 3


def check_blocks_see_no_later_ones(network: DenoiserModule, length: int) -> None:
    """Logits of a block are those of the sequence cut behind it, and change with its own end."""
    g = torch.Generator().manual_seed(3)
    ids = torch.randint(vocab_size(network), (5 * length + 1,), generator=g)
    whole = run(with_blocks(network, length), ids)[0]
    for end in (length, 2 * length, 4 * length):
        close(run(network, ids[:end])[0], whole[:end])
    ids[2 * length - 1] = (ids[2 * length - 1] + 1) % vocab_size(network)
    changed = run(network, ids)[0]
    close(changed[:length], whole[:length])
    assert (changed[length + 1] - whole[length + 1]).abs().max() > 1e-3
