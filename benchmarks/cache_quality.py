"""Quality of the bundled checkpoints' texts and digits with each approximate cache.

    python -m benchmarks.cache_quality --only stories --save cache_quality.jsonl
    python -m benchmarks.cache_quality --only digits --save cache_quality_digits.jsonl

``stories``: perplexity under the teacher and words that the corpus does not know, of texts by
``topk`` in blocks of 32 (the teacher is fetched with npm, as in recipes/stories). ``digits``: the
share that a classifier assigns to the requested class, by ``topk`` in blocks of 48, four rows.
"""

from __future__ import annotations

import argparse
import json
import time

import torch

from benchmarks.digits import judge as judge_of_digits
from benchmarks.isolated import Record, cached, save
from models.base import DenoiserModule
from models.checkpoints.load import Checkpoint, find_checkpoint, load_checkpoint
from recipes.digits.data import LEVELS
from recipes.stories.batches import END
from recipes.stories.corpus import read_corpus
from recipes.stories.evaluate import Judge, report, words
from sampler import SAMPLERS, make_params
from sampler.batch import CanvasBatch
from sampler.params import SamplingParams
from sampler.step import take_step

CACHES = (
    *(("none", 0), ("prompt", 8), ("prompt", 0)),
    *((mode, interval) for mode in ("prefix", "dual", "vicinity") for interval in (4, 0)),
)
PROMPTS = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park",
    "One day, a boy named Tim found a big red ball. He wanted to show it to his friend",
    "Sam the dog was very hungry. He looked for food in the kitchen, but",
    "Mom and Anna went to the beach. The sun was hot and the water was",
)
TOGETHER = 16


def canvases_of(prompts: list[list[int]], length: int, params: list[SamplingParams]) -> list:
    """Canvases that write ``length`` positions after each prompt."""
    return [
        ([*ids, *[0] * length], [False] * len(ids) + [True] * length, p)
        for ids, p in zip(prompts, params, strict=True)
    ]


def finished(
    loaded: Checkpoint, canvases: list, mode: str, interval: int
) -> tuple[list[list[int]], int]:
    """Ids of the canvases after all steps, and the positions that the network ran."""
    network = loaded.model
    assert isinstance(network, DenoiserModule)
    sampler = SAMPLERS["topk"].make(loaded.info.vocab_size, loaded.info.mask_id, loaded.ends)
    texts: list[list[int]] = []
    run = 0
    for start in range(0, len(canvases), TOGETHER):
        batch = sampler.begin(CanvasBatch.of(canvases[start : start + TOGETHER]))
        if mode != "none":
            batch = cached(network, batch, mode, interval)
        while not bool(batch.finished.all()):
            result = take_step(sampler, network, batch)
            batch, run = result.batch, run + result.run
        texts += [ids.tolist() for ids in batch.tokens.split(batch.lengths.tolist())]
    return texts, run


def stories(count: int) -> list[Record]:
    """Perplexity and unknown words by cache."""
    loaded, judge = load_checkpoint(find_checkpoint("stories")), Judge()
    known = {word for story in read_corpus() for word in words(story.text)}
    prompts = [loaded.tokenizer.encode(PROMPTS[i % len(PROMPTS)]) for i in range(count)]
    params = [
        make_params("topk", mixing_ratio=0.1, steps=60, block_length=32, temperature=0.3, seed=seed)
        for seed in range(count)
    ]
    found: list[Record] = []
    for mode, interval in CACHES:
        began = time.process_time()
        texts, run = finished(loaded, canvases_of(prompts, 192, params), mode, interval)
        seconds = time.process_time() - began
        told = []
        for ids in texts:
            cut = ids[: ids.index(END)] if END in ids else ids
            told.append((loaded.tokenizer.decode(cut), END in ids))
        figures = report(judge, known, told)
        found.append(
            {
                **{"checkpoint": "stories", "cache": mode, "interval": interval},
                "perplexity": round(figures["teacher_perplexity"], 2),
                "unknown_words": round(1 - figures["known_words"], 4),
                **{"positions": run, "cpu_s": round(seconds, 1)},
            }
        )
        print(json.dumps(found[-1]), flush=True)
    return found


def digits(count: int) -> list[Record]:
    """Accuracy by cache."""
    loaded, (svm, _) = load_checkpoint(find_checkpoint("digits")), judge_of_digits()
    labels = [i % 10 for i in range(count)]
    params = [
        make_params(
            "topk",
            mixing_ratio=0.1,
            steps=36,
            block_length=48,
            temperature=1.0,
            guidance_scale=2.0,
            class_label=label,
            seed=seed,
        )
        for seed, label in enumerate(labels)
    ]
    canvases = canvases_of([[] for _ in labels], 144, params)
    found: list[Record] = []
    for mode, interval in CACHES:
        if mode == "prompt" and interval == 0:
            continue  # there is no prompt
        began = time.process_time()
        images, run = finished(loaded, canvases, mode, interval)
        seconds = time.process_time() - began
        right = svm.predict(torch.tensor(images).numpy() / LEVELS) == labels
        found.append(
            {
                **{"checkpoint": "digits", "cache": mode, "interval": interval},
                "accuracy": round(float(right.mean()), 3),
                **{"positions": run, "cpu_s": round(seconds, 1)},
            }
        )
        print(json.dumps(found[-1]), flush=True)
    return found


def main() -> None:
    """Both checkpoints, or one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["stories", "digits"])
    parser.add_argument("--stories", type=int, default=32, help="texts by each cache")
    parser.add_argument("--digits", type=int, default=80, help="images by each cache")
    parser.add_argument("--save", help="name of a file in benchmarks/results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    records: list[Record] = []
    if args.only != "digits":
        records += stories(args.stories)
    if args.only != "stories":
        records += digits(args.digits)
    if args.save:
        save(args.save, records)


if __name__ == "__main__":
    main()
