"""Step 3: turn the causal teacher into a LLaDA-XDLM denoiser and train it on the corpus.

The student starts from the teacher's own weights: causal mask dropped, rotary rows permuted from
interleaved to half-split, vocabulary pruned, head untied. It learns the NELBO of eq. 15 with times
spread evenly over each batch; half of the sequences keep a clean random prefix, as a prompt would.
Matrices of the blocks are trained by Muon, the rest by AdamW. The run writes its state to a work
folder and goes on from there; the same seed and step draw the same batch.

    python -m models.bundled.stories.recipe.train                   # k = 0.1
    python -m models.bundled.stories.recipe.train --mixing-ratio 0 --tokens 6e6 --out controls/k0
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from models.bundled.stories.recipe import teacher as teacher_file
from models.bundled.stories.recipe.batches import Batch, encode, make_batch
from models.bundled.stories.recipe.corpus import RECIPE, WORK, read_corpus, split
from models.bundled.stories.recipe.student import start_from_teacher, student_config
from models.bundled.stories.recipe.validation import nelbo
from models.llada import LLaDA, LLaDAConfig
from sampler.kernel import NoiseKernel
from sampler.likelihood import nelbo_integrand


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run."""

    mixing_ratio: float = 0.1
    tokens: float = 1.1e8
    batch_tokens: int = 4096
    muon_lr: float = 4e-3
    adam_lr: float = 1e-3
    warmup_steps: int = 50
    decay_share: float = 0.9
    ema: float = 0.998
    clip: float = 1.0
    seed: int = 0


class EqualLengthAttention:
    """Attention over sequences of one length, as plain products: on a CPU the fused kernel's
    backward pass takes twice as long at this size.
    """

    def __init__(self, batch: int, length: int, device: torch.device) -> None:
        self.batch, self.length = batch, length
        self.positions = torch.arange(length, device=device).repeat(batch)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q, k, v [B L, H, d] -> [B L, H, d]."""
        q, k, v = (x.unflatten(0, (self.batch, self.length)).transpose(1, 2) for x in (q, k, v))
        scores = q @ k.mT * q.shape[-1] ** -0.5
        return (scores.softmax(-1) @ v).transpose(1, 2).flatten(0, 1)


def loss_of(student: LLaDA, kernel: NoiseKernel, batch: Batch) -> Tensor:
    """Weighted mean of the NELBO integrand over the scored positions; a scalar."""
    attention = EqualLengthAttention(*batch.z.shape, device=batch.z.device)
    with torch.autocast(batch.z.device.type, torch.bfloat16):
        logits = student.head(student.hidden(batch.z.flatten(), attention, batch.rows))
    log_p = kernel.suppress_mask(logits.float()).log_softmax(-1)
    z = batch.z.flatten()[batch.rows]
    return (nelbo_integrand(log_p, batch.x, z, batch.alpha, kernel) * batch.weight).sum()


class Run:
    """Weights, optimisers and averages of one training run, saved and resumed as a whole."""

    def __init__(self, recipe: Recipe, student: LLaDA, folder: Path) -> None:
        self.recipe, self.student, self.folder = recipe, student, folder
        self.step, self.seconds = 0, 0.0
        named = list(student.named_parameters())
        inner = [p for n, p in named if p.ndim == 2 and ".blocks." in n]
        outer = [p for n, p in named if not (p.ndim == 2 and ".blocks." in n)]
        self.optimisers = [
            torch.optim.Muon(
                inner, lr=recipe.muon_lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(outer, lr=recipe.adam_lr, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.peaks = [recipe.muon_lr, recipe.adam_lr]
        self.ema = {n: p.detach().clone() for n, p in named}

    def learning_rate_factor(self) -> float:
        """Warm up, hold, then fall linearly to zero over the last share of the tokens."""
        r = self.recipe
        left = 1.0 - self.step * r.batch_tokens / r.tokens
        return min(1.0, (self.step + 1) / r.warmup_steps, max(left, 0.0) / r.decay_share)

    def update(self) -> None:
        """One optimiser step on the gradients that are there; then the moving average."""
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), self.recipe.clip)
        factor = self.learning_rate_factor()
        for optimiser, peak in zip(self.optimisers, self.peaks, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = peak * factor
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.step += 1
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, p in self.student.named_parameters():
                self.ema[name].lerp_(p, 1.0 - decay)

    def save(self) -> None:
        """Write the state, then put it in place of the old one."""
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "student": self.student.state_dict(),
            "ema": self.ema,
            "optimisers": [o.state_dict() for o in self.optimisers],
        }
        torch.save(state, self.folder / "state.tmp")
        (self.folder / "state.tmp").replace(self.folder / "state.pt")

    def resume(self) -> None:
        """Go on from the saved state, if there is one."""
        path = self.folder / "state.pt"
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        self.step, self.seconds = state["step"], state["seconds"]
        self.student.load_state_dict(state["student"])
        self.ema = state["ema"]
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)

    def averaged(self) -> LLaDA:
        """A copy of the student with the averaged weights."""
        device = next(self.student.parameters()).device
        copy = LLaDA(self.student.config).to(device)
        copy.load_state_dict(self.ema)
        return copy.eval()


def write_checkpoint(run: Run, out: Path) -> None:
    """The averaged weights in bf16 with ``config.json``; elsewhere than at home, the rest
    beside.
    """
    out.mkdir(parents=True, exist_ok=True)
    weights = {n: t.to(torch.bfloat16).cpu().contiguous() for n, t in run.ema.items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)
    config = student_config(run.student.config.vocab_size)
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    home = RECIPE.parent
    if out.resolve() != home.resolve():
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(home / name, out / name)
        defaults = json.loads((home / "generation_config.json").read_text())
        defaults["mixing_ratio"] = run.recipe.mixing_ratio
        (out / "generation_config.json").write_text(json.dumps(defaults, indent=2) + "\n")


def train(
    recipe: Recipe,
    folder: Path,
    device: torch.device,
    compile_: bool = True,
    start: Path | None = None,
) -> Run:
    """Train until ``recipe.tokens`` have been seen; progress, log and state in ``folder``.

    ``start``: a checkpoint folder to start from instead of the teacher.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(str(RECIPE.parent / "tokenizer.json"))
    training, held = split(read_corpus())
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
    run = Run(recipe, student, folder)
    run.resume()
    loss_fn = torch.compile(loss_of, dynamic=False) if compile_ else loss_of
    log = (folder / "log.jsonl").open("a")
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}")) as progress:
        total = -(-int(recipe.tokens) // recipe.batch_tokens)
        task = progress.add_task("training", total=total, completed=run.step, note="")
        began, smooth = time.monotonic(), None
        while run.step < total:
            batch = make_batch(data, kernel, recipe.batch_tokens, recipe.seed, run.step)
            batch = Batch(*(getattr(batch, f.name).to(device) for f in fields(batch)))
            loss = loss_fn(student, kernel, batch)
            loss.backward()
            run.update()
            smooth = loss.item() if smooth is None else 0.95 * smooth + 0.05 * loss.item()
            speed = recipe.batch_tokens / (time.monotonic() - began)
            run.seconds += time.monotonic() - began
            began = time.monotonic()
            progress.update(task, completed=run.step, note=f"loss {smooth:.3f}  {speed:,.0f} tok/s")
            if run.step % 100 == 0 or run.step == total:
                run.save()
                record = {
                    "step": run.step,
                    "tokens": run.step * recipe.batch_tokens,
                    "loss": smooth,
                }
                record |= {"seconds": round(run.seconds), "tokens_per_s": round(speed)}
                if run.step % 1000 == 0 or run.step == total:
                    record["nelbo"] = nelbo(run.averaged(), validation[:64], kernel, 4)
                print(json.dumps(record), file=log, flush=True)
    return run


def main() -> None:
    defaults = Recipe()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mixing-ratio", type=float, default=defaults.mixing_ratio)
    parser.add_argument("--tokens", type=float, default=defaults.tokens)
    parser.add_argument("--batch-tokens", type=int, default=defaults.batch_tokens)
    parser.add_argument("--muon-lr", type=float, default=defaults.muon_lr)
    parser.add_argument("--adam-lr", type=float, default=defaults.adam_lr)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--work", type=Path, help="where the run keeps its state")
    parser.add_argument("--out", type=Path, default=RECIPE.parent, help="checkpoint folder")
    parser.add_argument("--start", type=Path, help="start from this checkpoint, not the teacher")
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
        seed=args.seed,
    )
    work = args.work or WORK / f"train-k{recipe.mixing_ratio:g}"
    device, compile_ = torch.device(args.device), not args.no_compile
    run = train(recipe, work, device, compile_, args.start)
    write_checkpoint(run, args.out)
    print(f"{run.step} steps -> {args.out}/model.safetensors")


if __name__ == "__main__":
    main()
