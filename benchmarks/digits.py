"""Accuracy of generated digits under a classifier, by steps and guidance.

The judge is a support vector machine of scikit-learn's, trained on the real digits as the model saw
them (12 x 12 pixels, 8 grey levels), and never on a generated one.

    python -m benchmarks.digits --save digits.jsonl                        # half an hour of a core
    python -m benchmarks.digits --device cuda --checkpoint controls/k0-s0 --save digits-k0-s0.jsonl
    python -m benchmarks.digits --steps 8 --guidance 2 --count 100           # a short look

A chart of the records in results/:

    python -m benchmarks.digits --plot docs/digits-accuracy.png

The same real digits, for a judge of images generated over HTTP:

    python -m benchmarks.digits --write-examples digits.npz
    xdlm-loadtest sweep --kind images --examples digits.npz ...
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from sklearn.svm import SVC

from benchmarks.isolated import RESULTS, save
from models.checkpoints.devices import DType
from models.checkpoints.load import Checkpoint, find_checkpoint, load_checkpoint
from models.checkpoints.malloc import keep_freed_memory
from recipes.digits.data import LEVELS, load
from sampler import SAMPLERS
from sampler.batch import CanvasBatch
from sampler.step import take_step
from server.engine.request_params import sampling_params

TRAINED_ON = 20_000
TOGETHER = 250


def judge() -> tuple[SVC, float]:
    """The classifier, and the share of real test digits that it gets right."""
    train, test = load("train"), load("t10k")
    svm = SVC(C=5.0, gamma="scale")
    svm.fit(train.levels[:TRAINED_ON].numpy() / LEVELS, train.labels[:TRAINED_ON].numpy())
    right = svm.predict(test.levels.numpy() / LEVELS) == test.labels.numpy()
    return svm, float(right.mean())


def write_examples(path: Path, names: tuple[str, ...]) -> None:
    """The real digits that the judge learns from, as grey levels of 0 to 255."""
    train = load("train")
    grey = train.levels[:TRAINED_ON].view(-1, 12, 12).numpy() * (255 / (LEVELS - 1))
    labels = train.labels[:TRAINED_ON].numpy()
    np.savez_compressed(path, images=grey.round().astype(np.uint8), labels=labels, names=names)


def plot(path: Path) -> None:
    """Accuracy by steps of all records, a line for each k and guidance; runs of other seeds are
    further points of its line.
    """
    import matplotlib.pyplot as plt

    found: dict[tuple[float, float], dict[int, list[float]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for file in RESULTS.glob("digits*.jsonl"):
        for r in map(json.loads, file.read_text().splitlines()[1:]):
            of = found[r["mixing_ratio"], r["guidance_scale"]]
            of[r["steps"]].append(100 * r["accuracy"])
    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    ticks = sorted({s for by_steps in found.values() for s in by_steps})
    for (k, guidance), by_steps in sorted(found.items()):
        colour, style = ("tab:blue", "-") if k else ("tab:orange", "--")
        steps = sorted(by_steps)
        means = [np.mean(by_steps[s]) for s in steps]
        fill = "full" if guidance > 1 else "none"
        label = f"k = {k:g}, guidance {guidance:g}"
        axes.plot(steps, means, style, color=colour, marker="o", fillstyle=fill, label=label)
    axes.set(xscale="log", xticks=ticks, xticklabels=ticks, xlabel="steps", ylim=(0, 102))
    axes.minorticks_off()
    axes.set_ylabel("digits that are what was asked for, %")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)


def draw(loaded: Checkpoint, labels: list[int], chosen: dict) -> np.ndarray:
    """Canvases [n, 144] of some labels."""
    params = sampling_params(loaded.defaults, {**chosen, "seed": 0})
    sampler = SAMPLERS[params.sampler].make(
        loaded.info.vocab_size, loaded.info.mask_id, loaded.ends
    )
    length, images = loaded.info.max_length, []
    for first in range(0, len(labels), TOGETHER):
        canvases = [
            (
                [0] * length,
                [True] * length,
                sampling_params(
                    loaded.defaults, {**chosen, "class_label": label, "seed": first + i}
                ),
            )
            for i, label in enumerate(labels[first : first + TOGETHER])
        ]
        batch = sampler.begin(CanvasBatch.of(canvases, loaded.device))
        for _ in range(params.calls):
            batch = take_step(sampler, loaded.model, batch).batch
        images.append(batch.tokens.view(-1, length).cpu().numpy())
    return np.concatenate(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="digits")
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 2.0])
    parser.add_argument("--sampler", default=None)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--dtype", choices=get_args(DType), default="float32", help="of the weights"
    )
    parser.add_argument("--count", type=int, default=1000, help="digits for each setting")
    parser.add_argument("--save", help="write this file of results/")
    parser.add_argument("--write-examples", type=Path, help="write the real digits, and no more")
    parser.add_argument("--plot", type=Path, help="draw what results/ holds, and no more")
    args = parser.parse_args()
    if args.plot:
        plot(args.plot)
        return
    if args.write_examples:
        loaded = load_checkpoint(find_checkpoint(args.checkpoint))
        write_examples(args.write_examples, loaded.info.class_names)
        return
    keep_freed_memory()
    svm, real = judge()
    print(f"the judge is right about {100 * real:.1f} % of 10 000 real digits")
    loaded = load_checkpoint(find_checkpoint(args.checkpoint), args.device, args.dtype)
    labels = [i % loaded.info.classes for i in range(args.count)]
    records = []
    for steps in args.steps:
        for guidance in args.guidance:
            chosen = {"steps": steps, "guidance_scale": guidance, "sampler": args.sampler}
            began = time.monotonic()
            with torch.inference_mode():
                pictures = draw(loaded, labels, chosen)
            seconds = time.monotonic() - began
            right = float((svm.predict(pictures / LEVELS) == np.array(labels)).mean())
            error = (right * (1 - right) / args.count) ** 0.5
            accuracy = f"{100 * right:.1f} % ± {100 * error:.1f}"
            print(
                f"{steps:3} steps, guidance {guidance:g}: {accuracy}, {seconds:.0f} s", flush=True
            )
            records.append(
                {
                    "checkpoint": Path(args.checkpoint).name,
                    "device": args.device,
                    "mixing_ratio": loaded.defaults["mixing_ratio"],
                    "sampler": args.sampler or loaded.defaults["sampler"],
                    "steps": steps,
                    "guidance_scale": guidance,
                    "digits": args.count,
                    "accuracy": right,
                    "standard_error": error,
                    "judge_on_real_digits": real,
                    "seconds": seconds,
                }
            )
    if args.save:
        save(args.save, records)


if __name__ == "__main__":
    main()
