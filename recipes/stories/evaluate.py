"""Step 4: look at what was trained. NELBO on held-out stories, and for each number of steps:
samples, perplexity under the teacher, share of words the corpus knows, share of stories that end.

    python -m recipes.stories.evaluate                      # the shipped checkpoint
    python -m recipes.stories.evaluate --checkpoint controls/k0 --mixing-ratio 0
    python -m recipes.stories.evaluate --dtype int8 --steps  # the NELBO alone
    python -m recipes.stories.evaluate --rounds 0 --param sampler=ancestral
"""

from __future__ import annotations

import argparse
import json
import math
import re
from pathlib import Path
from typing import Any, get_args

import torch
from rich.progress import track
from tokenizers import Tokenizer

from models.bundled import BUNDLED
from models.checkpoints.devices import DType
from models.checkpoints.load import Checkpoint, find_checkpoint, load_checkpoint
from models.families.llada import LLaDA
from recipes.stories import teacher as teacher_file
from recipes.stories.batches import END, encode
from recipes.stories.build_tokenizer import full_tokenizer
from recipes.stories.corpus import WORK, read_corpus, split
from recipes.stories.validation import nelbo
from sampler import SAMPLERS
from sampler.batch import CanvasBatch
from sampler.noise_kernel import NoiseKernel
from sampler.params import SamplingParams
from sampler.step import take_step
from server.engine.request_params import sampling_params

WORD = re.compile(r"[A-Za-z]+(?:'[A-Za-z]+)?")


def words(text: str) -> list[str]:
    """Lower-case words of a text."""
    return [w.lower() for w in WORD.findall(text)]


def sample(
    loaded: Checkpoint, params: SamplingParams, count: int, length: int, prompt: str
) -> list[tuple[str, bool]]:
    """(text, whether it ended) of ``count`` canvases with seeds 0..count-1."""
    make = SAMPLERS[params.sampler].make
    sampler = make(loaded.info.vocab_size, loaded.info.mask_id, loaded.ends)
    ids = loaded.tokenizer.encode(prompt)
    texts = []
    for start in range(0, count, 16):
        seeds = range(start, min(start + 16, count))
        canvases = [
            (
                ids + [0] * length,
                [False] * len(ids) + [True] * length,
                params.changed(seed=s),
            )
            for s in seeds
        ]
        batch = sampler.begin(CanvasBatch.of(canvases))
        for _ in range(params.calls):
            batch = take_step(sampler, loaded.model, batch).batch
        for row in batch.tokens.view(len(canvases), -1).tolist():
            ended = END in row
            texts.append((loaded.tokenizer.decode(row[: row.index(END)] if ended else row), ended))
    return texts


class Judge:
    """The teacher as a judge: perplexity per teacher piece, the closing one included."""

    def __init__(self) -> None:
        teacher = teacher_file.load(teacher_file.download(WORK / "teacher"))
        self.model = teacher_file.CausalTeacher(teacher, 1)
        self.tokenizer = full_tokenizer(teacher.pieces)
        self.limit = teacher.shape["max_len"]

    def nats(self, text: str, ended: bool) -> tuple[float, int]:
        """(negative log-likelihood, pieces) of a text."""
        ids = [teacher_file.BOS, *self.tokenizer.encode(text).ids]
        ids = [*ids, *[teacher_file.BOS] * ended][: self.limit + 1]
        if len(ids) < 2:
            return 0.0, 0
        logits = self.model(torch.tensor([ids[:-1]]))[0]
        log_p = logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])
        return -float(log_p.sum()), len(ids) - 1


def report(judge: Judge, known: set[str], texts: list[tuple[str, bool]]) -> dict[str, float]:
    """Figures of a set of samples."""
    scored = [judge.nats(text, ended) for text, ended in texts]
    said = [w for text, _ in texts for w in words(text)]
    pairs = [tuple(said[i : i + 2]) for i in range(len(said) - 1)]
    return {
        "teacher_perplexity": math.exp(sum(n for n, _ in scored) / sum(c for _, c in scored)),
        "known_words": sum(w in known for w in said) / len(said),
        "ended": sum(e for _, e in texts) / len(texts),
        "words_per_story": len(said) / len(texts),
        "distinct_bigrams": len(set(pairs)) / len(pairs),
    }


def read_value(text: str) -> Any:
    """A value as JSON; words need no quotes."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="stories")
    parser.add_argument("--mixing-ratio", type=float)
    parser.add_argument(
        "--param",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter of the sampling other than the checkpoint's, as sampler=ancestral",
    )
    parser.add_argument("--dtype", choices=get_args(DType), default="auto")
    parser.add_argument("--steps", type=int, nargs="*", default=[4, 8, 16, 32, 64])
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--length", type=int, default=250)
    parser.add_argument("--prompt", default="Once upon a time")
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--top-p", type=float)
    parser.add_argument("--rounds", type=int, default=8, help="noise levels per held-out story")
    parser.add_argument("--out", type=Path, help="write figures and samples here, as JSON")
    args = parser.parse_args()

    loaded = load_checkpoint(find_checkpoint(args.checkpoint), dtype=args.dtype)
    defaults = loaded.defaults
    k = defaults.get("mixing_ratio", 0.1) if args.mixing_ratio is None else args.mixing_ratio
    chosen = {"mixing_ratio": k, "temperature": args.temperature, "top_p": args.top_p, "seed": 0}
    chosen |= {n: read_value(value) for n, value in (each.split("=") for each in args.param)}
    params = sampling_params(defaults, chosen)
    stories = read_corpus()
    _, held = split(stories)
    known = {w for s in stories for w in words(s.text)}
    result: dict = {"checkpoint": args.checkpoint, "mixing_ratio": k}
    result |= {
        "param": args.param,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "steps": {},
    }
    if args.rounds:
        assert isinstance(loaded.model, LLaDA)
        tokenizer = Tokenizer.from_file(str(BUNDLED / "stories" / "tokenizer.json"))
        kernel = NoiseKernel(k, loaded.info.vocab_size, loaded.info.mask_id)
        result["nelbo"] = nelbo(loaded.model, encode(held, tokenizer), kernel, args.rounds)
        print(f"NELBO {result['nelbo']}")
    if not args.steps:
        return
    judge = Judge()
    corpus = [(s.text, s.ended) for s in held[: args.samples]]
    result["held_out_stories"] = report(judge, known, corpus)
    print(f"held out: {result['held_out_stories']}")
    for steps in track(args.steps, description="sampling"):
        chosen = params.changed(steps=steps)
        texts = sample(loaded, chosen, args.samples, args.length, args.prompt)
        figures = report(judge, known, texts)
        result["steps"][steps] = {"figures": figures, "samples": [t for t, _ in texts[:4]]}
        print(f"{steps} steps: " + ", ".join(f"{n} {v:.3f}" for n, v in figures.items()))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
