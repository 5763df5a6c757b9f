"""Two ways of doing the same work, each run a process of its own: CPU time and peak memory.

A benchmark module gives its sides by name; this module runs them A B A B ..., reads one JSON record
from each process, and tells medians.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.base import DenoiserModule
from models.checkpoints.malloc import keep_freed_memory
from models.families.llada import LLaDA, LLaDAConfig
from models.interface import Denoiser
from sampler.batch import CanvasBatch
from sampler.cache import CAUSAL, ENCODED, MODES, NOTHING, CacheColumns
from sampler.interface import Sampler
from sampler.params import SamplingParams
from sampler.step import TakeSteps, take_steps

BATCH, LENGTH, STEPS = 8, 128, 32
RESULTS = Path(__file__).parent / "results"
Record = dict[str, Any]


def random_model(
    vocab_size: int, width: int = 256, layers: int = 12, inner: int = 1024, length: int = LENGTH
) -> LLaDA:
    """A seeded LLaDA of eight heads, for canvases of up to ``length`` positions."""
    torch.manual_seed(0)
    config = LLaDAConfig(
        d_model=width,
        n_layers=layers,
        n_heads=8,
        n_kv_heads=8,
        mlp_hidden_size=inner,
        vocab_size=vocab_size,
        mask_token_id=vocab_size - 1,
        eos_token_id=0,
        max_sequence_length=length,
    )
    return LLaDA(config).eval().requires_grad_(False)


def logits_of(model: Denoiser) -> Callable[[torch.Tensor], torch.Tensor]:
    """The model as reference loops call it: ids [B, L] -> logits [B, L, V]."""

    @torch.inference_mode()
    def call(z: torch.Tensor) -> torch.Tensor:
        offsets = torch.arange(z.shape[0] + 1, device=z.device) * z.shape[1]
        return model.head(model.trunk(z.flatten(), offsets)).view(*z.shape, -1)

    return call


def steps_of(
    network: Denoiser,
    sampler: Sampler,
    canvases: Sequence[tuple[list[int], list[bool], SamplingParams]],
    device: str,
    take: TakeSteps = take_steps,
) -> tuple[torch.Tensor, int]:
    """All steps of some canvases, by ``take``; their tokens [positions], and the rows of logits
    computed.
    """
    batch = sampler.begin(CanvasBatch.of(canvases, device))
    rows = 0
    for _ in range(canvases[0][2].calls):
        (result,) = take(network, [(sampler, batch)])
        batch, rows = result.batch, rows + result.head_rows
    return batch.tokens, rows


def cached(
    network: DenoiserModule, batch: CanvasBatch, mode: str, interval: int = 0
) -> CanvasBatch:
    """A batch whose keys and values are kept, each canvas with an extent of slots.

    Args:
        network: makes room for them.
        batch: before its first step.
        mode: of ``sampler.cache``; networks with block-causal attention have their own.
        interval: steps after which all positions are run again; 0 for none.
    """
    lengths = batch.lengths.numpy()
    guided, total = batch.guidance_scale.numpy() != 1.0, int(lengths.sum())
    network.reserve(total * (1 + int(guided.any())))
    grid = network.block_length or 0
    same = {
        "mode": ENCODED if network.canvas_length else CAUSAL if grid else MODES.index(mode),
        "interval": interval,
        "vicinity": 16,
        "grid": grid,
        "shifted": int(network.shifted),
    }
    columns = {name: np.full(len(lengths), value) for name, value in same.items()}
    columns["start"] = lengths.cumsum() - lengths
    columns["twin"] = np.where(guided, columns["start"] + total, NOTHING)
    held = np.full(batch.host.positions, NOTHING)
    return replace(batch, cache=CacheColumns.of(columns), held=held)


def measure_here(side: str, setting: str, work: Callable[[], Record], threads: int = 1) -> None:
    """In a process of its own: do the work on some threads and print one JSON record.

    ``work`` says what it counted.
    """
    torch.set_num_threads(threads)
    keep_freed_memory()  # as the server does; for both sides
    wall, cpu = time.perf_counter(), time.process_time()
    counts = work()
    record = {
        "side": side,
        "setting": setting,
        "cpu_s": time.process_time() - cpu,
        "wall_s": time.perf_counter() - wall,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "load": os.getloadavg()[0],
        **counts,
    }
    print(json.dumps(record))


def compare(
    module: str,
    settings: list[str],
    repeats: int,
    measure: str = "cpu_s",
    sides: tuple[str, ...] = ("reference", "ours"),
) -> list[Record]:
    """Run ``python -m module --one SIDE SETTING`` for the sides of each setting.

    Args:
        module, settings, repeats: what is run, and how often.
        measure: the time that is compared, a field of the records.
        sides: those that are run; two are compared.
    """
    records: list[Record] = []
    for setting in settings:
        for _ in range(repeats):
            for side in sides:
                command = [sys.executable, "-m", module, "--one", side, setting]
                run = subprocess.run(command, capture_output=True, text=True, check=True)
                records.append(json.loads(run.stdout))
                print(records[-1], flush=True)
        if len(sides) < 2:
            continue
        reference, ours = (
            {
                key: statistics.median(
                    r[key] for r in records if (r["side"], r["setting"]) == (side, setting)
                )
                for key in (measure, "peak_mb")
            }
            for side in sides
        )
        speed = reference[measure] / ours[measure]
        memory = ours["peak_mb"] / reference["peak_mb"]
        print(f"{setting}: {speed:.2f}x less time ({measure}), {memory:.2f}x peak memory")
    return records


def machine() -> dict[str, str]:
    """Commit, machine and versions, recorded with each figure."""
    commit = os.environ.get("COMMIT", "")  # where the sources have come without their history
    if not commit:
        git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
        commit = git.stdout.strip()
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    cpu = Path("/proc/cpuinfo")
    names = [x for x in cpu.read_text().splitlines() if "model name" in x] if cpu.exists() else []
    return {
        "commit": commit,
        "torch": torch.__version__,
        "cpu": names[0].split(":")[1].strip() if names else platform.processor(),
        "cores": str(os.cpu_count()),
        **gpu,
    }


def save(name: str, records: list[Record]) -> None:
    """Write raw records with a first line that says how they were made."""
    RESULTS.mkdir(exist_ok=True)
    header = {"command": " ".join(sys.argv), **machine()}
    lines = [json.dumps(r) for r in (header, *records)]
    (RESULTS / name).write_text("\n".join(lines) + "\n")
