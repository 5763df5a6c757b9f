"""Time of a pass of the network on a CPU, in float32 and in bfloat16.

Seeded random weights but for ``stories``. The types take turns on the same tokens; medians. The
machine's own rate is that of a product of 1,024 rows with a matrix of 2,048 x 2,048 in bfloat16,
measured in the same run: the share of it that a pass reaches counts the products of its linear
layers.

    python -m benchmarks.cpu_types --save cpu_types.jsonl                          # two minutes
    python -m benchmarks.cpu_types --shapes stories --rounds 3 --threads 1         # a short look
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.isolated import Record, save
from benchmarks.served_vs_bare import SHAPE
from models.base import DenoiserModule
from models.bundled import BUNDLED
from models.checkpoints.load import load_checkpoint
from models.checkpoints.malloc import keep_freed_memory
from models.packed import pack
from models.registry import FAMILIES, build

LARGE = {
    "d_model": 2048,
    "n_layers": 16,
    "n_heads": 16,
    "n_kv_heads": 16,
    "mlp_hidden_size": 5632,
    "vocab_size": 32000,
    "mask_token_id": 31999,
    "eos_token_id": 1,
    "max_sequence_length": 1024,
}
CASES: dict[str, tuple[dict[str, Any] | None, list[tuple[int, int, int]]]] = {
    "stories": (None, [(1, 128, 64), (4, 128, 64)]),
    "60 M": (SHAPE, [(1, 121, 64), (4, 121, 64)]),
    "0.95 G": (LARGE, [(1, 121, 64), (4, 121, 64)]),
}
"""Shapes, and for each the canvases, the positions of one, and those whose logits are asked for."""
TYPES = (torch.float32, torch.bfloat16)


def network_of(shape: dict[str, Any] | None, dtype: torch.dtype) -> DenoiserModule:
    """A network as a server runs it; None is ``stories``."""
    if shape is None:
        name = "float32" if dtype == torch.float32 else "bfloat16"
        model = load_checkpoint(BUNDLED / "stories", dtype=name).model
        assert isinstance(model, DenoiserModule)
        return model
    config = {"model_type": "llada", **FAMILIES["llada"].random_config, **shape}
    network = build(config, None).network.to(dtype).to_empty(device="cpu").requires_grad_(False)
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in network.stored().values():
            tensor.uniform_(-0.03, 0.03)
    network.ready(torch.device("cpu"))
    pack(network)
    return network.eval()


def operations(shape: dict[str, Any] | None, positions: int, rows: int) -> float:
    """Of the linear layers in a pass: two for each entry of a matrix and row."""
    sizes = shape or json.loads((BUNDLED / "stories" / "config.json").read_text())
    d, inner = sizes["d_model"], sizes["mlp_hidden_size"]
    wide = d * (d + d // sizes["n_heads"] * sizes["n_kv_heads"])  # queries, keys
    layer = 2 * wide + 3 * d * inner
    return 2.0 * (positions * sizes["n_layers"] * layer + rows * d * sizes["vocab_size"])


def seconds(work: Callable[[], object]) -> float:
    """Of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def rate() -> float:
    """Operations a second of a product in bfloat16."""
    x, w = (torch.randn(n, 2048).bfloat16() for n in (1024, 2048))
    taken = sorted(seconds(lambda: F.linear(x, w)) for _ in range(30))
    return 2.0 * 1024 * 2048 * 2048 / taken[len(taken) // 2]


def passes(
    shape: dict[str, Any] | None,
    networks: dict[torch.dtype, DenoiserModule],
    case: tuple[int, int, int],
    rounds: int,
) -> Record:
    """Median milliseconds of a pass in each type, in turn."""
    canvases, length, asked = case
    vocab = 4000 if shape is None else shape["vocab_size"]
    g = torch.Generator().manual_seed(1)
    tokens = torch.randint(vocab, (canvases * length,), generator=g)
    offsets = torch.arange(canvases + 1) * length
    rows = torch.cat([torch.arange(length - asked, length) + start for start in offsets[:-1]])
    spent: dict[torch.dtype, list[float]] = {kind: [] for kind in networks}
    for i in range(rounds + 2):
        for kind, network in networks.items():
            with torch.inference_mode():
                taken = seconds(lambda net=network: net.head(net.trunk(tokens, offsets, rows)))
            if i > 1:
                spent[kind].append(1e3 * taken)
    medians = {str(kind)[6:]: statistics.median(found) for kind, found in spent.items()}
    return {
        "canvases": canvases,
        "positions": canvases * length,
        "rows": len(rows),
        "ms": medians,
        "operations": operations(shape, canvases * length, len(rows)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, torch.get_num_threads()])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--save", help="name of a file in benchmarks/results")
    args = parser.parse_args()
    keep_freed_memory()  # as the server does
    records: list[Record] = []
    for name in args.shapes:
        shape, cases = CASES[name]
        networks = {kind: network_of(shape, kind) for kind in TYPES}
        for threads in dict.fromkeys(args.threads):
            torch.set_num_threads(threads)
            for case in cases:
                best = rate()
                found = passes(shape, networks, case, args.rounds)
                found |= {"shape": name, "threads": threads, "rate": best}
                found["load"] = os.getloadavg()[0]
                records.append(found)
                wide, narrow = found["ms"]["float32"], found["ms"]["bfloat16"]
                share = found["operations"] / (1e-3 * narrow) / best
                print(
                    f"{name}, {threads} threads, {found['canvases']} canvases: float32 "
                    f"{wide:.1f} ms, bfloat16 {narrow:.1f} ms, {wide / narrow:.2f}x; "
                    f"{100 * share:.0f} % of {best / 1e9:.0f} GFLOP/s",
                    flush=True,
                )
    if args.save:
        save(args.save, records)


if __name__ == "__main__":
    main()
