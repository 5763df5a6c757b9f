"""Expected results on an H200, written down before the code that is to reach them exists.

Estimates of a roofline model (arithmetic over the card's matrix rate, bytes over its bandwidth)
calibrated on measured steps; the first row of each case is measured. LLaDA-8B in bf16, 256 tokens
after 128, 32 steps; the DiT has 12 blocks of 768, 50,258 ids, 32 canvases of 1,024.
"""

from __future__ import annotations

PREDICTED_SECONDS: dict[tuple[str, str], float] = {
    ("llada-8b 1 x 32 steps T=0", "reference"): 0.687,
    ("llada-8b 1 x 32 steps T=0", "eager"): 0.913,
    ("llada-8b 1 x 32 steps T=0", "graph"): 0.47,
    ("llada-8b 1 x 32 steps T=0", "fused"): 0.32,
    ("llada-8b 1 x 32 steps T=0", "fp8"): 0.22,
    ("llada-8b 1 x 64 steps dual", "fused"): 0.348,
    ("llada-8b 8 x 32 steps T=0", "reference"): 2.95,
    ("llada-8b 8 x 32 steps T=0", "eager"): 3.04,
    ("llada-8b 8 x 32 steps T=0", "graph"): 2.89,
    ("llada-8b 8 x 32 steps T=0", "fused"): 2.19,
    ("llada-8b 8 x 32 steps T=0", "fp8"): 1.46,
    ("dit 32 x 32 steps", "reference"): 3.456,
    ("dit 32 x 32 steps", "eager"): 1.480,
    ("dit 32 x 32 steps", "fused"): 0.594,
    ("dit 32 x 32 steps", "fp8"): 0.475,
}
"""Seconds of a whole run, by case and variant."""

PREDICTED_KERNELS: dict[tuple[str, str], float] = {
    ("llada-8b 1", "eager"): 1712,
    ("llada-8b 1", "graph"): 310,
    ("llada-8b 1", "fused"): 310,
}
"""Kernels of a step, by case and variant."""
