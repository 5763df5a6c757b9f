"""Section 3: logits of the official code, and parity with the published loop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from torch import Tensor

from benchmarks.device.networks import Bench
from benchmarks.parity import same_tokens
from models.base import DenoiserModule
from models.checkpoints.load import find_checkpoint, load_checkpoint
from models.families.dit import INV_FREQ, DiT
from models.families.dit_config import DiTConfig, stored_sizes
from models.families.llada import LLaDA, LLaDAConfig
from models.families.unet import UNet
from models.families.unet_config import UNetConfig

Network = TypeVar("Network", bound=DenoiserModule)
GOLDEN = Path(__file__).parents[2] / "tests" / "golden"
PREFIX = "weights.backbone."
DIT = {"model_length": 64, "n_heads": 4, "eos_token_id": 0, "mask_token_id": 32}
DIT_IMAGE = {
    "model_length": 12,
    "n_heads": 4,
    "mask_token_id": 40,
    "image": {"height": 3, "width": 4, "channels": 1, "tokens": "grey levels", "levels": 30},
}
UNET = {
    "vocab_size": 19,
    "mask_token_id": 18,
    "ch": 32,
    "ch_mult": [1, 1],
    "num_res_blocks": 1,
    "num_classes": 4,
    "image": {"height": 8, "width": 8, "channels": 3, "tokens": "bytes", "levels": 18},
}


def goldens(bench: Bench) -> None:
    """All networks in fp32 at the tolerances that a CPU holds, LLaDA in bf16, and parity."""
    official_logits(bench)
    full = load_checkpoint(find_checkpoint("stories"), bench.device, "float32")
    mask = full.info.mask_id
    assert mask is not None
    g = torch.Generator().manual_seed(0)
    count = 4 if bench.small else 200
    prompts = torch.randint(3, mask, (count, 8), generator=g).to(bench.device)
    kinds = [("parity fp32", full, 1.0 if bench.device == "cpu" else 0.999)]
    if bench.device != "cpu":
        half = load_checkpoint(find_checkpoint("stories"), bench.device, "bfloat16")
        kinds.append(("parity bf16", half, 0.0))
    for case, loaded, least in kinds:
        found = same_tokens(loaded, prompts, 16 if bench.small else 64, 100)
        note = f"{100 * found['same']:.4f} % of the tokens of the published loop, {count} prompts"
        bench.report.verify(case, "eager", found["same"] >= least, note)


def official_logits(bench: Bench) -> None:
    """Logits against those of the official code."""
    t, config = _read("llada_tiny_kv4")
    llada = _filled(LLaDA(LLaDAConfig.from_dict(config)), t, "weights.")
    _compare(bench, "llada", llada, t["input_ids"], t["logits"])
    if bench.device != "cpu":
        half = LLaDA(llada.config).to(torch.bfloat16)
        half.load_state_dict(llada.state_dict())
        half.make_rope(None)
        ours = _logits(bench, half, t["input_ids"])
        error = float((ours - t["logits"]).norm() / t["logits"].norm())
        bench.report.verify("llada bf16", "eager", error < 2e-2, f"relative error {error:.1e}")
    for name, said, kinds in (("dit_text", DIT, ("",)), ("dit_image", DIT_IMAGE, ("cond", "null"))):
        t, _ = _read(f"{name}_tiny")
        state = {k: v for k, v in t.items() if not k.endswith(INV_FREQ)}
        sizes = stored_sizes(
            {k.removeprefix(PREFIX): tuple(v.shape) for k, v in state.items() if PREFIX in k}
        )
        dit = _filled(DiT(DiTConfig.from_dict(said, sizes)), state, PREFIX)
        dit.fold()
        for kind in kinds:
            end = f".{kind}" if kind else ""
            labels = t.get(f"cond{end}")
            theirs = t[f"logits.sigma0{end}"]
            _compare(bench, f"{name} {kind}".strip(), dit, t["x"], theirs, labels)
    t, _ = _read("unet_tiny")
    unet = _filled(UNet(UNetConfig.from_dict(UNET)), t, PREFIX)
    ours = _logits(bench, unet, t["x"], t["cond.cond"]).softmax(-1)
    error = float((ours - t["logits.t0.cond"].softmax(-1)).abs().max())
    bench.report.verify("unet", "eager", error <= 2e-5, f"largest error of p {error:.1e}")


def _read(name: str) -> tuple[dict[str, Tensor], Any]:
    """Tensors of a golden file, and the config that it names."""
    with safe_open(str(GOLDEN / f"{name}.safetensors"), "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return tensors, json.loads((file.metadata() or {}).get("config", "null"))


def _filled(model: Network, tensors: dict[str, Tensor], prefix: str) -> Network:
    state = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
    model.load_state_dict(state)
    return model.requires_grad_(False)


def _logits(bench: Bench, model: DenoiserModule, x: Tensor, labels: Tensor | None = None) -> Tensor:
    """[B, L] -> [B, L, V], both on the CPU, computed on the device."""
    there = model.to(bench.device)
    offsets = torch.arange(len(x) + 1, device=bench.device) * x.shape[1]
    labels = None if labels is None else labels.to(bench.device)
    hidden = there.trunk(x.flatten().to(bench.device), offsets, None, labels)
    return there.head(hidden).unflatten(0, x.shape).float().cpu()


def _compare(
    bench: Bench,
    name: str,
    model: DenoiserModule,
    x: Tensor,
    theirs: Tensor,
    labels: Tensor | None = None,
) -> None:
    error = float((_logits(bench, model, x, labels) - theirs).abs().max())
    bench.report.verify(name, "eager", error <= 5e-5, f"largest error of a logit {error:.1e}")
