"""Step 3: turn the causal teacher into a LLaDA-XDLM denoiser and train it on the corpus.

The student starts from the teacher's own weights: causal mask dropped, rotary rows permuted from
interleaved to half-split, vocabulary pruned, head untied. It learns the NELBO of eq. 15 with times
spread evenly over each batch, the terms of canvases with little noise scaled down; half of the
sequences keep a clean random prefix, as a prompt would.
Matrices of the blocks are trained by Muon, the rest by AdamW. The run writes its state to a work
folder and goes on from there; the same seed and step draw the same batch.

    python -m recipes.stories.train                   # k = 0.1
    python -m recipes.stories.train --mixing-ratio 0 --tokens 6e6 --out controls/k0
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from models.bundled import BUNDLED
from models.families.llada import LLaDA, LLaDAConfig
from recipes.run import EqualLengthAttention, Rates, Run
from recipes.stories import teacher as teacher_file
from recipes.stories.batches import Batch, encode, make_batch
from recipes.stories.corpus import CORPUS, RECIPE, WORK, read_corpus, split
from recipes.stories.student import start_from_teacher, student_config
from recipes.stories.validation import nelbo
from sampler.likelihood.nelbo import nelbo_integrand
from sampler.noise_kernel import NoiseKernel


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run."""

    mixing_ratio: float = 0.1
    tokens: float = 1.1e8
    batch_tokens: int = 4096
    muon_lr: float = 4e-3
    adam_lr: float = 1e-3
    noise_floor: float = 0.3
    seed: int = 0

    @property
    def steps(self) -> int:
        """Updates of the weights."""
        return -(-int(self.tokens) // self.batch_tokens)


def loss_of(student: LLaDA, kernel: NoiseKernel, batch: Batch) -> Tensor:
    """Weighted sum of the NELBO integrand over the scored positions; a scalar."""
    attention = EqualLengthAttention(*batch.z.shape, device=batch.z.device)
    with torch.autocast(batch.z.device.type, torch.bfloat16):
        logits = student.head(student.hidden(batch.z.flatten(), attention, batch.rows))
    log_p = kernel.suppress_mask(logits.float()).log_softmax(-1)
    z = batch.z.flatten()[batch.rows]
    return (nelbo_integrand(log_p, batch.x, z, batch.alpha, kernel) * batch.weight).sum()


def write_checkpoint(ema: dict[str, Tensor], recipe: Recipe, out: Path) -> None:
    """The averaged weights in bf16 with ``config.json``; elsewhere than at home, the rest
    beside.
    """
    out.mkdir(parents=True, exist_ok=True)
    weights = {n: t.to(torch.bfloat16).cpu().contiguous() for n, t in ema.items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)
    config = student_config(ema["model.transformer.wte.weight"].shape[0])
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    home = BUNDLED / "stories"
    if out.resolve() != home.resolve():
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(home / name, out / name)
        defaults = json.loads((home / "generation_config.json").read_text())
        defaults["mixing_ratio"] = recipe.mixing_ratio
        (out / "generation_config.json").write_text(json.dumps(defaults, indent=2) + "\n")


def train(
    recipe: Recipe,
    folder: Path,
    device: torch.device,
    compile_: bool = True,
    start: Path | None = None,
    corpus: Path = CORPUS,
) -> Run:
    """Train until ``recipe.tokens`` have been seen; progress, log and state in ``folder``.

    ``start``: a checkpoint folder to start from instead of the teacher. ``corpus``: of stories.
    """
    tokenizer = Tokenizer.from_file(str(BUNDLED / "stories" / "tokenizer.json"))
    training, held = split(read_corpus(corpus))
    data, validation = encode(training, tokenizer), encode(held, tokenizer)
    source = json.loads((RECIPE / "pieces.json").read_text())
    torch.manual_seed(recipe.seed)
    student = LLaDA(LLaDAConfig.from_dict(student_config(len(source) + 1)))
    if start is None:
        teacher = teacher_file.load(teacher_file.download(WORK / "teacher"))
        start_from_teacher(student, teacher, source)
    else:
        student.load_state_dict(load_file(start / "model.safetensors"))
    student.to(device)
    kernel = NoiseKernel(
        recipe.mixing_ratio, student.config.vocab_size, student.config.mask_token_id
    )
    run = Run(student, Rates(recipe.muon_lr, recipe.adam_lr), recipe.steps, folder)
    run.resume()
    loss_fn = torch.compile(loss_of, dynamic=False) if compile_ else loss_of

    def loss_at(step: int) -> Tensor:
        batch = make_batch(data, kernel, recipe.batch_tokens, recipe.seed, step, recipe.noise_floor)
        batch = Batch(*(getattr(batch, f.name).to(device) for f in fields(batch)))
        return loss_fn(student, kernel, batch)

    def check() -> dict[str, Any]:
        averaged = LLaDA(student.config).to(device)
        averaged.load_state_dict(run.ema)
        return {"nelbo": nelbo(averaged.eval(), validation[:64], kernel, 4)}

    run.train(loss_at, check=check)
    return run


def main() -> None:
    defaults = Recipe()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mixing-ratio", type=float, default=defaults.mixing_ratio)
    parser.add_argument("--tokens", type=float, default=defaults.tokens)
    parser.add_argument("--batch-tokens", type=int, default=defaults.batch_tokens)
    parser.add_argument("--muon-lr", type=float, default=defaults.muon_lr)
    parser.add_argument("--adam-lr", type=float, default=defaults.adam_lr)
    parser.add_argument(
        "--noise-floor",
        type=float,
        default=defaults.noise_floor,
        help="terms of canvases with less noise count less; 0 for the NELBO itself",
    )
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--work", type=Path, help="where the run keeps its state")
    parser.add_argument("--out", type=Path, default=BUNDLED / "stories", help="checkpoint folder")
    parser.add_argument("--start", type=Path, help="start from this checkpoint, not the teacher")
    parser.add_argument("--corpus", type=Path, default=CORPUS)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--no-compile", action="store_true")
    args = parser.parse_args()
    recipe = replace(
        defaults,
        mixing_ratio=args.mixing_ratio,
        tokens=args.tokens,
        batch_tokens=args.batch_tokens,
        muon_lr=args.muon_lr,
        adam_lr=args.adam_lr,
        noise_floor=args.noise_floor,
        seed=args.seed,
    )
    work = args.work or WORK / f"train-k{recipe.mixing_ratio:g}"
    device, compile_ = torch.device(args.device), not args.no_compile
    run = train(recipe, work, device, compile_, args.start, args.corpus)
    write_checkpoint(run.ema, recipe, args.out)
    print(f"{run.step} steps -> {args.out}/model.safetensors")


if __name__ == "__main__":
    main()
