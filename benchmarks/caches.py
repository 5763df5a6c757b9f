"""Caches of keys and values: ours beside Fast-dLLM's loop, restated, on the same random weights.

A LLaDA of 60 M parameters, a prompt of 256 ids, 128 positions in blocks of 32, 64 evaluations at
temperature 0, one thread. Each side is a process of its own; sides take turns.

    python -m benchmarks.caches                    # one canvas, then eight
    python -m benchmarks.caches --settings dual-1-bfloat16 dual-8-bfloat16
    python -m benchmarks.caches --lengths          # milliseconds a step by length of the prompt
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.isolated import Record, cached, compare, measure_here, random_model, save
from benchmarks.reference import KeysValues, fast_dllm_loop
from models.base import rotate
from models.families.llada import LLaDA
from models.packed import pack
from sampler import make_params
from sampler.batch import CanvasBatch
from sampler.samplers.topk import TopK
from sampler.step import take_step

PROMPT, LENGTH, BLOCK, STEPS = 256, 128, 32, 64
VOCAB = 32000
PROMPTS = (64, 256, 1024)


def random_network() -> LLaDA:
    """8 layers of 512, seeded."""
    return random_model(VOCAB, width=512, layers=8, inner=1536, length=2048)


def prompts(count: int, size: int) -> list[list[int]]:
    """Random prompts."""
    g = torch.Generator().manual_seed(1)
    return torch.randint(1, VOCAB - 1, (count, size), generator=g).tolist()


class PlainForward:
    """The network as published code runs it: one canvas, keys and values joined layer by layer."""

    def __init__(self, network: LLaDA) -> None:
        self.network = network

    def __call__(
        self, ids: Tensor, kept: KeysValues | None, first: int
    ) -> tuple[Tensor, KeysValues]:
        """See ``CachedForward``."""
        network = self.network
        parts = network.model["transformer"]
        at = slice(first, first + ids.shape[1])
        cos, sin = network.cos[at], network.sin[at]
        h, found = parts["wte"](ids[0]), []  # pyright: ignore[reportIndexIssue]
        for i, block in enumerate(parts["blocks"]):  # pyright: ignore[reportIndexIssue]
            y = block.attn_norm(h)
            q, k, v = (
                proj(y).unflatten(-1, (-1, block.head_dim))
                for proj in (block.q_proj, block.k_proj, block.v_proj)
            )
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
            if kept is not None:
                keys, values = (t.clone() for t in kept[i])
                keys[at], values[at] = k, v
                k, v = keys, values
            found.append((k, v))
            q, k, v = (t.transpose(0, 1)[None] for t in (q, k, v))
            mixed = F.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1).flatten(1)
            h = h + block.attn_out(mixed)
            y = block.ff_norm(h)
            h = h + block.ff_out(F.silu(block.ff_proj(y)) * block.up_proj(y))
        return network.head(parts["ln_f"](h))[None], found  # pyright: ignore[reportIndexIssue]


def cached_batch(
    network: LLaDA, given: list[list[int]], mode: str, steps: int = STEPS
) -> tuple[TopK, CanvasBatch]:
    """Our sampler and canvases behind some prompts, with an extent of slots each."""
    sampler = TopK(VOCAB, VOCAB - 1)
    params = make_params(
        steps=steps,
        sampler="topk",
        mixing_ratio=0.0,
        temperature=0.0,
        block_length=BLOCK,
        cache=mode,
    )
    size = len(given[0])
    canvases = [([*ids, *[0] * LENGTH], [False] * size + [True] * LENGTH, params) for ids in given]
    batch = sampler.begin(CanvasBatch.of(canvases))
    return sampler, batch if mode == "none" else cached(network, batch, mode)


def ours(network: LLaDA, mode: str, canvases: int) -> Record:
    """All steps of some canvases together."""
    sampler, batch = cached_batch(network, prompts(canvases, PROMPT), mode)
    run = 0
    for _ in range(STEPS):
        result = take_step(sampler, network, batch)
        batch, run = result.batch, run + result.run
    return {"rows": run, "sum": int(batch.tokens.sum())}


def reference(network: LLaDA, mode: str, canvases: int) -> Record:
    """The published loop, canvas by canvas: its caches take one."""
    forward, total = PlainForward(network), 0
    for ids in prompts(canvases, PROMPT):
        x = fast_dllm_loop(
            forward,
            prompt=torch.tensor([ids]),
            length=LENGTH,
            block=BLOCK,
            steps=STEPS,
            mask_id=VOCAB - 1,
            mode=mode,
        )
        total += int(x.sum())
    return {"sum": total}


def step_of(mode: str, prompt: int) -> float:
    """Median milliseconds of a step that runs no more than the mode's window."""
    torch.set_num_threads(1)
    network = random_network()
    sampler, batch = cached_batch(network, prompts(1, prompt), mode)
    spent = []
    for _ in range(STEPS // 4):
        began = time.perf_counter()
        batch = take_step(sampler, network, batch).batch
        spent.append(time.perf_counter() - began)
    return 1e3 * statistics.median(spent[2:])


SETTINGS = [f"{mode}-{count}" for count in (1, 8) for mode in ("none", "prefix", "dual")]


def main() -> None:
    """Compare, or be one of the two."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=2, metavar=("SIDE", "SETTING"))
    parser.add_argument("--settings", nargs="*", default=SETTINGS, help="MODE-CANVASES[-TYPE]")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--lengths", action="store_true", help="steps by length of the prompt")
    parser.add_argument("--save", help="name of a file in benchmarks/results")
    args = parser.parse_args()
    if args.one:
        side, setting = args.one
        mode, canvases, *types = setting.split("-")
        work = ours if side == "ours" else reference
        network = random_network().to(getattr(torch, types[0] if types else "float32"))
        network.ready(torch.device("cpu"))  # rotary angles stay in float32
        if side == "ours":
            pack(network)  # as the server does
        measure_here(side, setting, lambda: work(network, mode, int(canvases)))
        return
    if args.lengths:
        for mode in ("none", "dual"):
            found = {n: round(step_of(mode, n), 2) for n in PROMPTS}
            print(json.dumps({"mode": mode, "milliseconds a step by prompt": found}))
        return
    records = compare("benchmarks.caches", args.settings, args.repeats)
    if args.save:
        save(args.save, records)


if __name__ == "__main__":
    main()
