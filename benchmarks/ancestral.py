"""Branch-first ancestral sampling against the explicit posterior: CPU time and peak memory.

Seeded random weights of a LLaDA shape; the same canvas, steps and one thread for both. Each run is
a process of its own, so that peak memory is its own; A B A B order; medians over the repeats.

    python -m benchmarks.ancestral                        # vocabulary 50 258 and 4 096
    python -m benchmarks.ancestral --bundled              # 32 steps of 128 tokens, alone, all cores
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.reference import explicit_posterior_loop
from models import checkpoint as checkpoints
from models.llada import LLaDA, LLaDAConfig
from sampler.ancestral import Ancestral
from sampler.canvas import CanvasBatch
from sampler.params import SamplingParams
from sampler.step import take_step
from server.choices import sampling_params

BATCH, LENGTH, STEPS, MIXING_RATIO = 8, 128, 32, 0.1
RESULTS = Path(__file__).parent / "results"


def random_model(vocab_size: int) -> LLaDA:
    """12 layers of 256, seeded."""
    torch.manual_seed(0)
    config = LLaDAConfig(
        d_model=256,
        n_layers=12,
        n_heads=8,
        n_kv_heads=8,
        mlp_hidden_size=1024,
        vocab_size=vocab_size,
        mask_token_id=vocab_size - 1,
        eos_token_id=0,
        max_sequence_length=LENGTH,
    )
    return LLaDA(config).eval().requires_grad_(False)


def branch_first(model: LLaDA, vocab_size: int) -> dict[str, float]:
    """Run our sampler; returns what it computed."""
    sampler = Ancestral(vocab_size, vocab_size - 1)
    canvases = [
        ([0] * LENGTH, [True] * LENGTH, SamplingParams(steps=STEPS, seed=i)) for i in range(BATCH)
    ]
    batch = sampler.begin(CanvasBatch.of(canvases))
    rows = forwards = 0
    for _ in range(STEPS + 1):
        result = take_step(sampler, model, batch)
        batch, rows, forwards = (
            result.batch,
            rows + result.head_rows,
            forwards + int(result.ran.sum()),
        )
    return {"head_rows_per_position": rows / (BATCH * LENGTH), "forwards": forwards}


def reference(model: LLaDA, vocab_size: int) -> dict[str, float]:
    """Run the explicit-posterior loop."""
    offsets = torch.arange(BATCH + 1) * LENGTH

    @torch.inference_mode()
    def logits_of(z: torch.Tensor) -> torch.Tensor:
        return model.head(model.trunk(z.flatten(), offsets)).view(BATCH, LENGTH, -1)

    explicit_posterior_loop(
        logits_of,
        batch=BATCH,
        length=LENGTH,
        steps=STEPS,
        vocab_size=vocab_size,
        mask_id=vocab_size - 1,
        mixing_ratio=MIXING_RATIO,
        seed=0,
    )
    return {"head_rows_per_position": STEPS + 1, "forwards": BATCH * (STEPS + 1)}


def measure_one(side: str, vocab_size: int) -> None:
    """In a process of its own: print one JSON record."""
    torch.set_num_threads(1)
    model = random_model(vocab_size)
    run = branch_first if side == "branch_first" else reference
    wall, cpu = time.perf_counter(), time.process_time()
    counts = run(model, vocab_size)
    record = {
        "side": side,
        "vocab_size": vocab_size,
        "cpu_s": time.process_time() - cpu,
        "wall_s": time.perf_counter() - wall,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "load": os.getloadavg()[0],
        **counts,
    }
    print(json.dumps(record))


def machine() -> dict[str, str]:
    """What a figure needs to be read with."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    cpu = Path("/proc/cpuinfo")
    names = [x for x in cpu.read_text().splitlines() if "model name" in x] if cpu.exists() else []
    return {
        "commit": commit.stdout.strip(),
        "torch": torch.__version__,
        "cpu": names[0].split(":")[1].strip() if names else platform.processor(),
        "cores": str(os.cpu_count()),
    }


def compare(vocab_sizes: list[int], repeats: int) -> list[dict]:
    """A B A B ..., one process a run."""
    records = []
    for vocab_size in vocab_sizes:
        for _ in range(repeats):
            for side in ("reference", "branch_first"):
                command = [sys.executable, "-m", "benchmarks.ancestral", "--one", side]
                run = subprocess.run(
                    [*command, str(vocab_size)], capture_output=True, text=True, check=True
                )
                records.append(json.loads(run.stdout))
                print(records[-1], flush=True)
        median = {
            (side, key): statistics.median(
                r[key] for r in records if r["side"] == side and r["vocab_size"] == vocab_size
            )
            for side in ("reference", "branch_first")
            for key in ("cpu_s", "peak_mb")
        }
        speed = median["reference", "cpu_s"] / median["branch_first", "cpu_s"]
        memory = median["branch_first", "peak_mb"] / median["reference", "peak_mb"]
        print(f"vocabulary {vocab_size}: {speed:.2f}x less CPU time, {memory:.2f}x peak memory")
    return records


def bundled(repeats: int) -> list[dict]:
    """32 steps of 128 tokens of the bundled checkpoint, alone, with its own defaults."""
    loaded = checkpoints.load(checkpoints.find("stories"))
    sampler = Ancestral(loaded.info.vocab_size, loaded.info.mask_id)
    prompt = loaded.tokenizer.encode("Once upon a time")
    records = []
    for i in range(repeats + 3):
        params = sampling_params(loaded.defaults, {"steps": 32, "seed": i})
        canvas = (prompt + [0] * 128, [False] * len(prompt) + [True] * 128, params)
        began = time.perf_counter()
        batch = sampler.begin(CanvasBatch.of([canvas]))
        for _ in range(params.calls):
            batch = take_step(sampler, loaded.model, batch).batch
        if i >= 3:  # warm
            records.append({"bundled_s": time.perf_counter() - began, "load": os.getloadavg()[0]})
    cuts = statistics.quantiles([r["bundled_s"] for r in records], n=4)
    threads = torch.get_num_threads()
    print(f"median {cuts[1]:.3f} s (quartiles {cuts[0]:.3f}, {cuts[2]:.3f}), {threads} threads")
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=2, metavar=("SIDE", "VOCABULARY"))
    parser.add_argument("--bundled", action="store_true")
    parser.add_argument("--vocab", type=int, nargs="+", default=[50_258, 4_096])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--save", help="name of a file in benchmarks/results")
    args = parser.parse_args()
    if args.one:
        measure_one(args.one[0], int(args.one[1]))
        return
    records = bundled(args.repeats) if args.bundled else compare(args.vocab, args.repeats)
    if args.save:
        RESULTS.mkdir(exist_ok=True)
        header = {"command": " ".join(sys.argv), **machine()}
        lines = [json.dumps(r) for r in (header, *records)]
        (RESULTS / args.save).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
