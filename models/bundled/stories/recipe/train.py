"""Step 3: turn the causal teacher into a LLaDA-XDLM denoiser and train it on the corpus.

The student starts from the teacher's own weights: causal mask dropped, rotary rows permuted from
interleaved to half-split, vocabulary pruned, head untied. It learns the NELBO of eq. 15 with times
spread evenly over each batch; half of the sequences keep a clean random prefix, as a prompt would.
Matrices of the blocks are trained by Muon, the rest by AdamW. The run writes its state to a work
folder and goes on from there; the same seed and step draw the same batch.

    python -m models.bundled.stories.recipe.train                      # k = 0.1, two hours on two
    cores python -m models.bundled.stories.recipe.train --mixing-ratio 0 --tokens 6e6 --out
    controls/k0
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from models.bundled.stories.recipe import teacher as teacher_file
from models.bundled.stories.recipe.corpus import RECIPE, WORK, Story, read_corpus, split
from models.llada import LLaDA, LLaDAConfig
from sampler.kernel import NoiseKernel
from sampler.likelihood import nelbo_integrand
from sampler.schedule import LogLinearSchedule

CANVAS = 256
LENGTHS = ((256, 0.5), (160, 0.3), (96, 0.2))  # canvas lengths of a batch and their shares
T_MIN = 5e-3  # below, a canvas has about one noisy token and gradients are mostly variance
START, END = 0, 1


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run."""

    mixing_ratio: float = 0.1
    tokens: float = 3.2e7
    batch_tokens: int = 8192
    muon_lr: float = 6e-3
    adam_lr: float = 1.5e-3
    warmup_steps: int = 50
    decay_share: float = 0.9
    ema: float = 0.998
    clip: float = 1.0
    seed: int = 0


def encode(stories: list[Story], tokenizer: Tokenizer) -> Tensor:
    """Canvases [n, 256]: start token, story, end tokens to the edge. Stories cut short are
    dropped.
    """
    rows = []
    for story, code in zip(stories, tokenizer.encode_batch([s.text for s in stories]), strict=True):
        ids = code.ids[:CANVAS]
        if story.ended or len(ids) == CANVAS:
            rows.append(ids + [END] * (CANVAS - len(ids)))
    return torch.tensor(rows, dtype=torch.int32)


def student_config(vocab_size: int) -> dict[str, Any]:
    """``config.json`` of the student, with LLaDA's field names."""
    return {
        "model_type": "llada",
        "architectures": ["LLaDAModelLM"],
        "block_type": "llama",
        "d_model": 288,
        "n_layers": 6,
        "n_heads": 6,
        "n_kv_heads": 6,
        "mlp_hidden_size": 768,
        "mlp_ratio": 4,
        "activation_type": "silu",
        "layer_norm_type": "rms",
        "layer_norm_with_affine": True,
        "bias_for_layer_norm": False,
        "attention_layer_norm": False,
        "rms_norm_eps": 1e-5,
        "rope": True,
        "rope_theta": 10000.0,
        "rope_full_precision": True,
        "alibi": False,
        "include_bias": False,
        "include_qkv_bias": False,
        "input_emb_norm": False,
        "scale_logits": False,
        "weight_tying": False,
        "block_group_size": 1,
        "max_sequence_length": CANVAS,
        "vocab_size": vocab_size,
        "embedding_size": vocab_size,
        "mask_token_id": vocab_size - 1,
        "bos_token_id": START,
        "eos_token_id": END,
        "pad_token_id": END,
        "attention_dropout": 0.0,
        "embedding_dropout": 0.0,
        "residual_dropout": 0.0,
        "torch_dtype": "bfloat16",
    }


def start_from_teacher(student: LLaDA, teacher: teacher_file.Teacher, source: list[int]) -> None:
    """Copy the teacher's weights into the student, in the student's layout."""
    w, c = teacher.weights, student.config
    half_split = torch.cat((torch.arange(0, c.head_dim, 2), torch.arange(1, c.head_dim, 2)))
    rows = (torch.arange(c.n_heads)[:, None] * c.head_dim + half_split).flatten()
    embedding = w["embedding"][source]
    embedding = torch.cat((embedding, embedding.mean(0, keepdim=True)))  # the mask row
    state = {
        "wte.weight": embedding,
        "ff_out.weight": embedding,
        "ln_f.weight": w["final_norm"],
    }
    for i in range(c.n_layers):
        state |= {
            f"blocks.{i}.attn_norm.weight": w["attn_norm"][i],
            f"blocks.{i}.q_proj.weight": w["wq"][i][rows],
            f"blocks.{i}.k_proj.weight": w["wk"][i][rows],
            f"blocks.{i}.v_proj.weight": w["wv"][i],
            f"blocks.{i}.attn_out.weight": w["wo"][i],
            f"blocks.{i}.ff_norm.weight": w["ffn_norm"][i],
            f"blocks.{i}.ff_proj.weight": w["w1"][i],
            f"blocks.{i}.up_proj.weight": w["w3"][i],
            f"blocks.{i}.ff_out.weight": w["w2"][i],
        }
    student.load_state_dict({f"model.transformer.{name}": t for name, t in state.items()})


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


@dataclass(frozen=True)
class Batch:
    """Noised canvases [B, L] and what to learn from them."""

    x: Tensor
    z: Tensor
    alpha: Tensor  # [B, L]
    weight: Tensor  # [B, L], 0 on the clean prefix, sums to 1


def make_batch(data: Tensor, kernel: NoiseKernel, recipe: Recipe, step: int) -> Batch:
    """Batch number ``step``: same recipe and step, same batch."""
    g = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    shares = torch.tensor([share for _, share in LENGTHS])
    length = LENGTHS[int(torch.multinomial(shares, 1, generator=g))][0]
    count = recipe.batch_tokens // length
    x = data[torch.randint(len(data), (count,), generator=g), :length].long()
    t = (torch.rand(1, generator=g) + torch.arange(count) / count) % 1.0
    t = T_MIN + (1.0 - T_MIN) * t[torch.randperm(count, generator=g), None]
    alpha = LogLinearSchedule().alpha(t).expand(x.shape)
    prefix = 1 + (length * torch.rand(count, 1, generator=g).square()).long()
    prefix = torch.where(torch.rand(count, 1, generator=g) < 0.5, 1, prefix)  # 1: the start token
    learn = torch.arange(length) >= prefix
    u = torch.rand(x.shape, generator=g)
    uniform_id = torch.randint(kernel.vocab_size, x.shape, generator=g)
    z = torch.where(learn, kernel.noise(x, alpha, u, uniform_id), x)
    return Batch(x, z, alpha, learn / learn.sum())


def loss_of(student: LLaDA, kernel: NoiseKernel, x: Tensor, z: Tensor, alpha: Tensor, w: Tensor):
    """Weighted mean of the NELBO integrand over a batch [B, L]; a scalar."""
    attention = EqualLengthAttention(*x.shape, device=x.device)
    with torch.autocast(x.device.type, torch.bfloat16):
        logits = student.head(student.hidden(z.flatten(), attention))
    log_p = kernel.suppress_mask(logits.float()).log_softmax(-1)
    nats = nelbo_integrand(log_p, x.flatten(), z.flatten(), alpha.flatten(), kernel)
    return (nats * w.flatten()).sum()


@torch.inference_mode()
def nelbo(model: LLaDA, data: Tensor, kernel: NoiseKernel, rounds: int) -> dict[str, float]:
    """NELBO (eq. 15) of canvases [n, 256] as ``encode`` makes them, in fp32.

    Each canvas is noised ``rounds`` times, at times spread evenly over (0.001, 1). All positions
    but the start token count; per token means per token of the story and its first end token, so
    that padding adds nats and no tokens.
    """
    schedule, g = LogLinearSchedule(), torch.Generator().manual_seed(1234)
    device = next(model.parameters()).device
    per_story = []
    for x in data.long().split(8):
        n, length = x.shape
        nats = torch.zeros(n)
        shift = torch.rand(n, 1, generator=g)
        for r in range(rounds):
            alpha = schedule.alpha(1e-3 + (1 - 1e-3) * ((shift + r / rounds) % 1.0)).expand(x.shape)
            u = torch.rand(x.shape, generator=g)
            uniform_id = torch.randint(kernel.vocab_size, x.shape, generator=g)
            z = kernel.noise(x, alpha, u, uniform_id)
            z[:, 0] = START
            offsets = torch.arange(n + 1, device=device) * length
            logits = model.head(model.trunk(z.flatten().to(device), offsets)).float().cpu()
            log_p = kernel.suppress_mask(logits).log_softmax(-1).view(n, length, -1)
            terms = nelbo_integrand(log_p, x, z, alpha, kernel) * schedule.rate
            nats += terms[:, 1:].sum(1) / rounds
        per_story.append(nats)
    total = torch.cat(per_story)
    tokens = (data != END).sum(1).clamp(max=CANVAS - 1).float()  # start out, first end token in
    return {
        "nats_per_token": float(total.sum() / tokens.sum()),
        "standard_error": float(total.std() / len(total) ** 0.5 / tokens.mean()),
        "nats_per_position": float(total.mean() / (CANVAS - 1)),
        "stories": len(total),
    }


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
            batch = make_batch(data, kernel, recipe, run.step)
            args = (a.to(device) for a in (batch.x, batch.z, batch.alpha, batch.weight))
            loss = loss_fn(student, kernel, *args)
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
