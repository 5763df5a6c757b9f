"""The mean of the weights of several checkpoints that were trained on from the same one.

For two:

    python -m recipes.stories.average models/bundled/stories LEG4 --out MEAN
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def main() -> None:
    """Write it, in bf16, with the other files of the first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    found = [load_file(folder / "model.safetensors") for folder in args.checkpoints]
    mean = {n: torch.stack([w[n].float() for w in found]).mean(0).bfloat16() for n in found[0]}
    shutil.copytree(args.checkpoints[0], args.out, dirs_exist_ok=True)
    save_file(mean, args.out / "model.safetensors", metadata={"format": "pt"})
    print(f"the mean of {len(found)} -> {args.out}/model.safetensors")


if __name__ == "__main__":
    main()
