"""Section 11: whether a canvas gets the same bits alone and in company in bf16.

Each setting of cuBLAS is a process of its own, because it reads its variables once.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys

import torch

from benchmarks.device.networks import Bench
from benchmarks.device.report import Report

LIMIT = 120
"""Seconds after which a process is given up."""
SETTINGS = {
    "default": {},
    "cublas": {"CUBLAS_WORKSPACE_CONFIG": ":16:8", "CUBLASLT_WORKSPACE_SIZE": "1"},
}


def bits(bench: Bench) -> None:
    """Logits of one canvas alone against those in a pass with seven others."""
    for name, variables in SETTINGS.items():
        if not bench.report.has_time:
            bench.report.skip("alone and in company of 7", name)
            continue
        command = [sys.executable, "-m", "benchmarks.device.bits", "--device", bench.device]
        command += ["--small"] * bench.small
        variables = {**os.environ, **variables}
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=LIMIT)
        if done.returncode:
            last = (done.stderr.splitlines() or ["no output"])[-1]
            bench.report.add("alone and in company of 7", name, ok=False, note=last[:100])
            continue
        found = json.loads(done.stdout)
        note = f"{100 * found['equal']:.2f} % of the logits have the same bits, "
        note += f"largest difference {found['largest']:.2g}"
        taken = [found["seconds"]]
        bench.report.add("alone and in company of 7", name, seconds=taken, note=note)


def compare(device: str, small: bool) -> dict[str, float]:
    """Share of equal logits, their largest difference, and seconds of a pass over 8 canvases."""
    from benchmarks.device.measures import seconds

    bench = Bench(device, small, Report(io.StringIO(), device, 0.0))
    model, length = bench.llada(), 48 if small else 384
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(3, bench.llada_shape["mask_token_id"], (8, length), generator=g).to(device)

    def logits(some: torch.Tensor) -> torch.Tensor:
        offsets = torch.arange(len(some) + 1, device=device) * length
        return model.head(model.trunk(some.flatten(), offsets))[:length]

    alone, together = logits(ids[:1]), logits(ids)
    return {
        "equal": float((alone == together).double().mean()),
        "largest": float((alone.float() - together.float()).abs().max()),
        "seconds": seconds(lambda: logits(ids), device),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    with torch.inference_mode():
        print(json.dumps(compare(args.device, args.small)))


if __name__ == "__main__":
    main()
