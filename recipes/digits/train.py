"""Step 2: train a class-conditional DiT on the digits, with the NELBO of eq. 15.

Times are spread evenly over each batch; a tenth of the labels are replaced by the null label, for
guidance. The run writes its state to a work folder and goes on from there; the same seed and step
draw the same batch.

    python -m recipes.digits.train                    # k = 0.1
    python -m recipes.digits.train --mixing-ratio 0 --out controls/digits-k0
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from models.bundled import BUNDLED
from models.families.dit import DiT
from models.families.dit_config import DiTConfig
from recipes.digits.data import LEVELS, SIDE, WORK, Digits, load
from recipes.run import EqualLengthAttention, Rates, Run
from sampler.likelihood.nelbo import nelbo_integrand
from sampler.noise_kernel import NoiseKernel
from sampler.schedules import LogLinearSchedule

CLASSES = 10  # the null label follows them
SCHEDULE = LogLinearSchedule()
DEFAULTS = {
    "steps": 16,
    "sampler": "ancestral",
    "noise_schedule": "log_linear",
    "temperature": 1.0,
    "top_p": 1.0,
    "guidance_scale": 2.0,
    "noise_removal": "ancestral",
}
"""Of ``generation_config.json``."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run."""

    mixing_ratio: float = 0.1
    epochs: float = 3.0
    batch: int = 64
    muon_lr: float = 4e-3
    adam_lr: float = 1e-3
    hidden_label: float = 0.1
    seed: int = 0


def config() -> dict[str, Any]:
    """``config.json`` of the network."""
    return {
        "model_type": "dit",
        "hidden_dim": 128,
        "cond_dim": 128,
        "n_blocks": 6,
        "n_heads": 4,
        "model_length": SIDE * SIDE,
        "vocab_size": LEVELS + 1,
        "mask_token_id": LEVELS,
        "num_classes": CLASSES,
        "class_names": [
            "zero",
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
        ],
        "image": {
            "height": SIDE,
            "width": SIDE,
            "channels": 1,
            "tokens": "grey levels",
            "levels": LEVELS,
        },
    }


def student_of(fields: dict[str, Any]) -> DiT:
    """A network to train; every block begins as the identity, every guess as uniform."""
    student = DiT(DiTConfig.from_dict(fields))
    for name, parameter in student.named_parameters():
        if "adaLN_modulation" in name or name.startswith("output_layer.linear"):
            nn.init.zeros_(parameter)
    return student


def loss_of(
    student: DiT, kernel: NoiseKernel, x: Tensor, z: Tensor, labels: Tensor, t: Tensor
) -> Tensor:
    """NELBO in nats per pixel, a scalar; x, z [B, L], labels and t [B]."""
    attention = EqualLengthAttention(*z.shape, device=z.device)
    of_pixels = labels.repeat_interleave(z.shape[1])
    with torch.autocast(z.device.type, torch.bfloat16):
        logits = student.head(student.hidden(z.flatten(), attention, labels=of_pixels))
    logits = logits.unflatten(0, z.shape)
    log_p = kernel.suppress_mask(logits.float()).log_softmax(-1)
    alpha = SCHEDULE.alpha(t)[:, None].expand(x.shape)
    return SCHEDULE.rate * nelbo_integrand(log_p, x, z, alpha, kernel).mean()


def draw(digits: Digits, kernel: NoiseKernel, recipe: Recipe, step: int) -> tuple[Tensor, ...]:
    """The batch of a step: clean and noised pictures, labels, times."""
    g = torch.Generator().manual_seed(1_000_003 * recipe.seed + step)
    count = recipe.batch
    which = torch.randint(len(digits.labels), (count,), generator=g)
    x, labels = digits.levels[which], digits.labels[which]
    hidden = torch.rand(count, generator=g) < recipe.hidden_label
    labels = torch.where(hidden, CLASSES, labels)
    t = (torch.rand(1, generator=g) + torch.arange(count) / count) % 1
    t = 1e-3 + (1 - 1e-3) * t
    u = torch.rand(x.shape, generator=g)
    noise = torch.randint(kernel.vocab_size, x.shape, generator=g)
    return x, kernel.noise(x, SCHEDULE.alpha(t)[:, None], u, noise), labels, t


def write_checkpoint(ema: dict[str, Tensor], recipe: Recipe, out: Path) -> None:
    """The averaged weights in bf16 with ``config.json``."""
    out.mkdir(parents=True, exist_ok=True)
    weights = {n: w.to(torch.bfloat16).cpu().contiguous() for n, w in ema.items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)
    (out / "config.json").write_text(json.dumps(config(), indent=2) + "\n")
    defaults = {**DEFAULTS, "mixing_ratio": recipe.mixing_ratio}
    (out / "generation_config.json").write_text(json.dumps(defaults, indent=2) + "\n")


def train(recipe: Recipe, folder: Path, device: torch.device) -> Run:
    """Train for so many epochs; progress, log and state in ``folder``."""
    digits = load("train")
    torch.manual_seed(recipe.seed)
    student = student_of(config()).to(device)
    kernel = NoiseKernel(recipe.mixing_ratio, LEVELS + 1, LEVELS)
    steps = int(recipe.epochs * len(digits.labels) / recipe.batch)
    run = Run(student, Rates(recipe.muon_lr, recipe.adam_lr, ema=0.999), steps, folder)
    run.resume()

    def loss_at(step: int) -> Tensor:
        x, z, labels, t = (a.to(device) for a in draw(digits, kernel, recipe, step))
        return loss_of(student, kernel, x, z, labels, t)

    run.train(loss_at)
    return run


def main() -> None:
    defaults = Recipe()
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("mixing-ratio", "epochs", "muon-lr", "adam-lr"):
        parser.add_argument(
            f"--{name}", type=float, default=getattr(defaults, name.replace("-", "_"))
        )
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--work", type=Path, help="where the run keeps its state")
    parser.add_argument("--out", type=Path, default=BUNDLED / "digits", help="checkpoint folder")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    chosen = {n: v for n, v in vars(args).items() if n not in ("work", "out", "device")}
    recipe = replace(defaults, **chosen)
    work = args.work or WORK / f"train-k{recipe.mixing_ratio:g}"
    run = train(recipe, work, torch.device(args.device))
    write_checkpoint(run.ema, recipe, args.out)
    print(f"{run.step} steps -> {args.out}/model.safetensors")


if __name__ == "__main__":
    main()
