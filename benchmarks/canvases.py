"""Canvases of DiffusionGemma beside transformers' ``generate``, with random weights, small shapes.

    python -m benchmarks.canvases --repeats 3 --save canvases.jsonl
    python -m benchmarks.canvases --requests 1-bfloat16 8-bfloat16
    python -m benchmarks.canvases --memory            # peak of a step by canvases and chunk size

Both sides take the same number of steps: no canvas ends early. Transformers runs its requests as
one batch of equal prompts. Time depends on shapes alone, so each side has weights of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from typing import Any

import torch

from benchmarks.families import random_network
from benchmarks.isolated import Record, cached, compare, measure_here, save
from models.families.diffusion_gemma import DiffusionGemma
from models.packed import pack
from sampler import make_params
from sampler.batch import CanvasBatch
from sampler.logits import row_requests
from sampler.samplers.entropy_bound import EntropyBound
from sampler.step import take_step

PROMPT, CANVAS, STEPS = 64, 128, 8
THREADS = 1
TEXT: dict[str, Any] = {
    "vocab_size": 32768,
    "hidden_size": 512,
    "intermediate_size": 512,
    "moe_intermediate_size": 128,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "num_global_key_value_heads": 2,
    "head_dim": 64,
    "global_head_dim": 128,
    "sliding_window": 128,
    "num_experts": 32,
    "top_k_experts": 4,
    "max_position_embeddings": 1024,
    "use_bidirectional_attention": "vision",
}


def canvases_of(network: DiffusionGemma, count: int) -> tuple[EntropyBound, CanvasBatch]:
    """Requests of one canvas each, that take all their steps."""
    g = torch.Generator().manual_seed(1)
    vocab = network.config.vocab_size
    prompts = torch.randint(vocab, (count, PROMPT), generator=g).tolist()
    own = {"block_length": CANVAS, "max_denoising_steps": STEPS, "stop_entropy": 0.0}
    free = [False] * PROMPT + [True] * CANVAS
    canvases = [
        ([*ids, *[0] * CANVAS], free, make_params("entropy_bound", steps=STEPS, seed=i, **own))
        for i, ids in enumerate(prompts)
    ]
    sampler = EntropyBound(vocab, None)
    return sampler, cached(network, sampler.begin(CanvasBatch.of(canvases)), "none")


def small_network(dtype: torch.dtype = torch.float32, **sizes: int) -> DiffusionGemma:
    """The network of this benchmark, or one with other sizes."""
    config = {"model_type": "diffusion_gemma", "canvas_length": CANVAS, "text_config": TEXT | sizes}
    network = random_network(config, dtype)
    assert isinstance(network, DiffusionGemma)
    pack(network)
    return network


def ours(count: int, dtype: torch.dtype) -> Record:
    """Seconds of all steps of some canvases together."""
    network = small_network(dtype)

    def decode(requests: int) -> int:
        sampler, batch = canvases_of(network, requests)
        for _ in range(STEPS):
            batch = take_step(sampler, network, batch).batch
        return STEPS

    return timed(decode, count)


def transformers_generate(count: int, dtype: torch.dtype) -> Record:
    """Seconds of transformers' ``generate`` for a batch of as many prompts."""
    from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion

    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8}
    vision |= {"num_attention_heads": 2, "num_key_value_heads": 2}
    config = DiffusionGemmaConfig(text_config=TEXT, vision_config=vision, canvas_length=CANVAS)
    torch.manual_seed(0)
    model = DiffusionGemmaForBlockDiffusion(config).eval()
    torch.nn.Module.to(model, dtype)
    g = torch.Generator().manual_seed(1)
    chosen = {"max_denoising_steps": STEPS, "confidence_threshold": 1e-9, "max_new_tokens": CANVAS}

    def decode(requests: int) -> int:
        ids = torch.randint(TEXT["vocab_size"], (requests, PROMPT), generator=g)
        with torch.inference_mode():
            more = {"attention_mask": torch.ones_like(ids), "eos_token_id": None}
            model.generate(**{"input_ids": ids, **more, **chosen})
        return STEPS

    return timed(decode, count)


def timed(decode: Any, count: int) -> Record:
    """Seconds of one thread for the second of two runs; the first, of one request, warms up."""
    decode(1)
    began, wall = time.process_time(), time.perf_counter()
    steps = decode(count)
    seconds = time.process_time() - began
    told = {"step_ms": 1e3 * seconds / steps, "wall": time.perf_counter() - wall}
    return {"seconds": seconds, "canvases": count, **told}


def memory_of(canvases: int, rows: int) -> Record:
    """Growth of the peak of memory in two steps of some canvases, with chunks of some rows."""
    network = small_network(num_hidden_layers=1, vocab_size=TEXT["vocab_size"])
    row_requests.CHUNK_ELEMENTS["cpu"] = rows * TEXT["vocab_size"]
    sampler, batch = canvases_of(network, canvases)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(2):
        batch = take_step(sampler, network, batch).batch
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    whole = canvases * CANVAS * TEXT["vocab_size"] * 4
    return {
        "chunk_rows": rows,
        "canvases": canvases,
        "peak_mb": round(grown / 1024, 1),
        "all_logits_mb": round(whole / 2**20, 1),
    }


def main() -> None:
    """Compare, or be one of the sides."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=2, metavar=("SIDE", "REQUESTS[-TYPE]"))
    parser.add_argument("--peak", nargs=2, type=int, metavar=("CANVASES", "ROWS"))
    parser.add_argument("--memory", action="store_true", help="peak of a step")
    parser.add_argument("--requests", nargs="+", default=["1", "8"])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--save", help="name of a file in benchmarks/results")
    args = parser.parse_args()
    if args.one:
        side, setting = args.one
        requests, *types = setting.split("-")
        dtype = getattr(torch, types[0] if types else "float32")
        work = ours if side == "ours" else transformers_generate
        measure_here(side, setting, lambda: work(int(requests), dtype), threads=THREADS)
        return
    if args.peak:
        torch.set_num_threads(THREADS)
        print(json.dumps(memory_of(*args.peak)))
        return
    records: list[Record] = []
    if args.memory:
        records = [peak_apart(n, rows) for n, rows in ((64, 16), (64, 64), (64, 256), (16, 64))]
    else:
        records = compare("benchmarks.canvases", args.requests, args.repeats, "seconds")
    if args.save:
        save(args.save, records)


def peak_apart(canvases: int, rows: int) -> Record:
    """One measurement of memory in a process of its own."""
    import subprocess
    import sys

    command = [sys.executable, "-m", "benchmarks.canvases", "--peak", str(canvases), str(rows)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    print(done.stdout, end="", flush=True)
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
