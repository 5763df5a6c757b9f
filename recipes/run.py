"""One training run: weights, optimisers and averages, saved and resumed as a whole.

Matrices of the blocks are trained by Muon, the rest by AdamW.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn


@dataclass(frozen=True)
class Rates:
    """How a run learns: it warms up, holds, and falls to zero over the last share of its steps."""

    muon_lr: float
    adam_lr: float
    warmup_steps: int = 50
    decay_share: float = 0.9
    ema: float = 0.998
    clip: float = 1.0


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


class Run:
    """Weights, optimisers and moving averages of one training run.

    Attributes:
        network: to train; Muon updates the matrices of its ``blocks`` except modulation.
        step, steps: updates done and planned.
        seconds: spent so far.
        ema: the averaged weights by name.
    """

    def __init__(self, network: nn.Module, rates: Rates, steps: int, folder: Path) -> None:
        self.network, self.rates, self.steps, self.folder = network, rates, steps, folder
        self.step, self.seconds = 0, 0.0
        named = list(network.named_parameters())
        is_inner = {n: p.ndim == 2 and "blocks." in n and "adaLN" not in n for n, p in named}
        inner = [p for n, p in named if is_inner[n]]
        outer = [p for n, p in named if not is_inner[n]]
        self.optimisers = [
            torch.optim.Muon(
                inner, lr=rates.muon_lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(outer, lr=rates.adam_lr, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.peaks = [rates.muon_lr, rates.adam_lr]
        self.ema = {n: p.detach().clone() for n, p in named}

    def learning_rate_factor(self) -> float:
        """Share of the peak rates at the step that comes next."""
        left = 1.0 - self.step / self.steps
        warm = (self.step + 1) / self.rates.warmup_steps
        return min(1.0, warm, max(left, 0.0) / self.rates.decay_share)

    def update(self) -> None:
        """One optimiser step on the gradients that are there; then the moving average."""
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.rates.clip)
        factor = self.learning_rate_factor()
        for optimiser, peak in zip(self.optimisers, self.peaks, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = peak * factor
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.step += 1
        decay = min(self.rates.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, p in self.network.named_parameters():
                self.ema[name].lerp_(p, 1.0 - decay)

    def save(self) -> None:
        """Write the state, then put it in place of the old one."""
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "network": self.network.state_dict(),
            "ema": self.ema,
            "optimisers": [o.state_dict() for o in self.optimisers],
        }
        torch.save(state, self.folder / "state.tmp")
        (self.folder / "state.tmp").replace(self.folder / "state.pt")

    def resume(self) -> None:
        """Go on from the saved state, if there is one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "state.pt"
        if not path.exists():
            return
        device = next(self.network.parameters()).device
        state = torch.load(path, weights_only=True, map_location=device)
        self.step, self.seconds = state["step"], state["seconds"]
        self.network.load_state_dict(state["network"])
        self.ema = state["ema"]
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)

    def train(
        self,
        loss_at: Callable[[int], Tensor],
        save_every: int = 100,
        check: Callable[[], dict[str, Any]] = dict,
        check_every: int = 1000,
    ) -> None:
        """Walk the steps that are left, with a progress bar; a line of ``log.jsonl`` at each save.

        Args:
            loss_at: the loss of a step's own batch, a scalar.
            save_every: steps between saves.
            check: adds to the log line.
            check_every: steps between checks.
        """
        columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
        smooth, began = None, time.monotonic()
        with (
            (self.folder / "log.jsonl").open("a") as log,
            Progress(*columns, TextColumn("{task.fields[note]}")) as progress,
        ):
            task = progress.add_task("training", total=self.steps, completed=self.step, note="")
            while self.step < self.steps:
                loss = loss_at(self.step)
                loss.backward()
                self.update()
                smooth = loss.item() if smooth is None else 0.95 * smooth + 0.05 * loss.item()
                now = time.monotonic()
                seconds, began = now - began, now
                self.seconds += seconds
                note = f"loss {smooth:.3f}  {seconds:.2f} s a step"
                progress.update(task, completed=self.step, note=note)
                if self.step % save_every == 0 or self.step == self.steps:
                    self.save()
                    record = {"step": self.step, "loss": smooth, "seconds": round(self.seconds)}
                    if self.step % check_every == 0 or self.step == self.steps:
                        record |= check()
                    print(json.dumps(record), file=log, flush=True)
