"""Section 0: the device, its bandwidth and its matrix rates; section 1: kernels of our own."""

from __future__ import annotations

import platform
import shutil
import subprocess

import torch

from benchmarks.device.measures import copy_rate, matrix_rate, seconds
from benchmarks.device.networks import Bench, random_llada
from benchmarks.device.rows import reading
from fusion.choice import decisions, operations_of_pytorch
from models.families.llada_config import SHAPES
from models.joined import join


def card(bench: Bench) -> None:
    """Versions, ``nvidia-smi``, copy bandwidth, bf16 and fp8 matrix rates on random data."""
    add, device = bench.report.add, bench.device
    versions = f"python {platform.python_version()}, torch {torch.__version__}"
    add("versions", note=f"{versions}, CUDA {torch.version.cuda}, {platform.machine()}")
    if device != "cpu" and shutil.which("nvidia-smi"):
        command = [
            "nvidia-smi",
            "--query-gpu=name,driver_version,memory.total,clocks.sm,power.draw",
        ]
        found = subprocess.run([*command, "--format=csv,noheader"], capture_output=True, text=True)
        add("nvidia-smi", note=found.stdout.strip())
    rate = copy_rate(device, 2**24 if bench.small else 2**31)
    add("copy", note=f"{rate / 1e12:.3f} TB/s")
    size = 256 if bench.small else 8192
    bench.matrix_rate = matrix_rate(device, size)
    add("matrix bf16", note=f"{bench.matrix_rate / 1e12:.1f} TFLOP/s at {size}")
    shapes = [(size, size, size)]
    if not bench.small:  # rows, in, out: products of LLaDA-8B for one canvas and for eight
        shapes += [(m, k, n) for m in (384, 3072) for k, n in ((4096, 12288), (12288, 4096))]
    for m, k, n in shapes:
        for scaling in ("rowwise", "tensorwise"):
            fp8_rate(bench, m, k, n, scaling)


def fp8_rate(bench: Bench, m: int, k: int, n: int, scaling: str) -> None:
    """Rate of one fp8 product [m, k] x [k, n], and its error against bf16."""
    case = f"matrix fp8 {m} x {k} x {n}"
    x, w = (torch.randn(rows, k, device=bench.device) for rows in (m, n))
    whole = scaling == "tensorwise"
    scales = [(t.abs().amax() if whole else t.abs().amax(1, keepdim=True)) / 448 for t in (x, w)]
    x8, w8 = ((t / s).to(torch.float8_e4m3fn) for t, s in zip((x, w), scales, strict=True))
    scale_a, scale_b = (s.float() for s in (scales[0], scales[1] if whole else scales[1].T))

    def product() -> torch.Tensor:
        return torch.ops.aten._scaled_mm(
            x8, w8.t(), scale_a, scale_b.contiguous(), out_dtype=torch.bfloat16, use_fast_accum=True
        )

    try:
        theirs = x.bfloat16() @ w.bfloat16().T
        error = float((product().float() - theirs.float()).norm() / theirs.float().norm())
        seconds(product, bench.device)
        taken = seconds(lambda: [product() for _ in range(10)], bench.device) / 10
        exact = seconds(lambda: [x.bfloat16() @ w.bfloat16().T for _ in range(10)], bench.device)
    except RuntimeError as refused:
        bench.report.skip(case, scaling, f"skipped: {str(refused).splitlines()[0][:80]}")
        return
    rate = 2 * m * k * n / taken / 1e12
    note = f"{rate:.1f} TFLOP/s, error {error:.4f}, bf16 with its casts {exact / 10:.3g} s"
    bench.report.add(case, scaling, seconds=[taken], ok=error < 0.06, note=note)


def kernels(bench: Bench) -> None:
    """Whether the project's own kernels agree with PyTorch's operations, in both types, a
    network by them with one without, and rows of logits by theirs.
    """
    if bench.device == "cpu":
        bench.report.skip("kernels", "fused", "skipped: no kernels on a CPU")
        return
    for dtype in (torch.float32, torch.bfloat16):
        few = {"n_layers": 2, "vocab_size": 2048, "mask_token_id": 2047, "eos_token_id": 1}
        network = random_llada({**SHAPES["llada-8b"], **few}, bench.device, dtype)
        tokens = torch.arange(96, device=bench.device)
        with operations_of_pytorch():
            expected = network.trunk(tokens, torch.tensor([0, 40, 96])).float()
        join(network)
        found = network.trunk(tokens, torch.tensor([0, 40, 96])).float()
        error = float((found - expected).norm() / expected.norm())
        most = 2e-2 if dtype == torch.bfloat16 else 1e-4
        case = f"two layers, {str(dtype).removeprefix('torch.')}"
        bench.report.verify(case, "fused", error < most, f"relative error {error:.2g}")
    reading(bench)
    for (name, _, dtype, *sizes), agreed in decisions().items():
        case = f"{name} {str(dtype).removeprefix('torch.')} {sizes}"
        bench.report.add(case, "fused", ok=agreed, note="used" if agreed else "deviates: not used")
