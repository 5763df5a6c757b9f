"""Wall time of a network evaluation: served over HTTP to one client, and in a plain loop.

A random LLaDA of 60 M parameters (8 layers of 512, 32,000 ids), 64 tokens in 32 steps at
temperature 0. The plain loop calls ``take_step`` on the main thread of the measuring process; the
server is a process of its own. The sides take turns, and each waits while the other computes.

    python -m benchmarks.served_vs_bare --save served_vs_bare.jsonl
    python -m benchmarks.served_vs_bare --dtype float32 --pairs 3      # a short look
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.isolated import Record, save
from benchmarks.serving import Server, serving
from models.bundled import BUNDLED
from models.checkpoints.devices import DType
from models.checkpoints.load import Checkpoint, load_checkpoint
from models.checkpoints.malloc import keep_freed_memory
from models.checkpoints.random_init import write_random
from models.errors import CheckpointError
from sampler import SAMPLERS, make_params
from sampler.batch import CanvasBatch
from sampler.step import take_step

SHAPE = {
    "d_model": 512,
    "n_layers": 8,
    "n_heads": 8,
    "n_kv_heads": 8,
    "mlp_hidden_size": 1536,
    "vocab_size": 32000,
    "mask_token_id": 31999,
    "eos_token_id": 1,
    "max_sequence_length": 1024,
}
PROMPT, TOKENS, STEPS = "Once upon a time", 64, 32
SAMPLING = {"sampler": "topk", "temperature": 0.0, "mixing_ratio": 0.0}


def bare(loaded: Checkpoint) -> float:
    """Milliseconds of a step in a plain loop."""
    prompt = loaded.tokenizer.encode(PROMPT)
    params = make_params(steps=STEPS, **SAMPLING)
    mask = loaded.info.mask_id
    sampler = SAMPLERS["topk"].make(loaded.info.vocab_size, mask, loaded.ends)
    editable = [False] * len(prompt) + [True] * TOKENS
    began = time.perf_counter()
    batch = sampler.begin(CanvasBatch.of([([*prompt, *[0] * TOKENS], editable, params)]))
    for _ in range(STEPS):
        batch = take_step(sampler, loaded.model, batch).batch
    return 1e3 * (time.perf_counter() - began) / STEPS


def served(server: Server) -> float:
    """Milliseconds of a network evaluation of one request over HTTP."""
    body = {"prompt": PROMPT, "max_tokens": TOKENS, "steps": STEPS, "ignore_eos": True, **SAMPLING}
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/completions", json.dumps(body), headers)
    answer = json.loads(connection.getresponse().read())
    taken = time.perf_counter() - began
    connection.close()
    return 1e3 * taken / answer["usage"]["diffusion"]["forwards"]


def waits(pid: int) -> int:
    """How often the threads of a process have waited for something."""
    found = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        lines = (task / "status").read_text().splitlines()
        found += int(next(x for x in lines if x.startswith("voluntary_ctxt_switches")).split()[1])
    return found


def pairs(folder: Path, dtype: DType, count: int, threads: int) -> Iterator[Record]:
    """Both sides in turn; the first pair does not count."""
    loaded = load_checkpoint(folder, "cpu", dtype)
    with serving(str(folder), threads, XDLM_DTYPE=dtype) as server:
        sides = {
            "bare": (os.getpid(), lambda: bare(loaded)),
            "served": (server.process.pid, lambda: served(server)),
        }
        for i in range(count + 1):
            for side, (pid, work) in sides.items():
                before = waits(pid)
                record: Record = {"dtype": dtype, "threads": threads, "side": side, "ms": work()}
                record |= {"waits": (waits(pid) - before) / STEPS, "load": os.getloadavg()[0]}
                if i:
                    yield record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--save", help="name of a file in benchmarks/results")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()  # as the server does
    records: list[Record] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_random(folder, SHAPE, dtype=torch.float32, tokenizer=BUNDLED / "stories")
        for dtype in args.dtype:
            try:
                found = list(pairs(folder, dtype, args.pairs, args.threads))
            except CheckpointError as refused:
                print(f"{dtype}: {refused}")
                continue
            records += found
            ms = {s: [r["ms"] for r in found if r["side"] == s] for s in ("bare", "served")}
            ratios = [s / b for b, s in zip(ms["bare"], ms["served"], strict=True)]
            for side, values in ms.items():
                waited = statistics.median(r["waits"] for r in found if r["side"] == side)
                print(f"{dtype}, {side}: {statistics.median(values):.1f} ms, {waited:.0f} waits")
            print(
                f"{dtype}: {statistics.median(ratios):.2f}x ({min(ratios):.2f}, {max(ratios):.2f})"
            )
    if args.save:
        save(args.save, records)


if __name__ == "__main__":
    main()
