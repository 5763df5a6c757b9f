"""Step 1: sample the corpus of children's stories from the teacher.

Each story is sampled at temperature 0.8, top-p 0.95 within the 48 likeliest pieces, at most 256
tokens, until the teacher closes it, from the pieces that the shipped tokenizer has. Batches are
seeded by their number, so the run can stop and go on, and any batch can be made again alone.
Stories that the file holds already stay in front, so a larger corpus keeps its held-out stories;
duplicates are dropped.

    python -m recipes.stories.corpus --stories 64000 --out recipes/stories/.work/corpus.jsonl.gz
"""

from __future__ import annotations

import argparse
import gzip
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor

from models.checkpoints.malloc import keep_freed_memory
from recipes.stories import teacher as teacher_file

RECIPE = Path(__file__).parent
WORK = RECIPE / ".work"  # ignored by git: downloads, checkpoints of running jobs
PARTS = WORK / "corpus"
CORPUS = RECIPE / "corpus.jsonl.gz"
TEMPERATURE, TOP_P, TOP_K, MAX_TOKENS, BATCH = 0.8, 0.95, 48, 256, 256
VALIDATION_EVERY = 50  # every 50th story is held out


@dataclass(frozen=True)
class Story:
    """One story; ``ended`` is false when it was cut at 256 tokens."""

    text: str
    ended: bool


def read_corpus(path: Path = CORPUS) -> list[Story]:
    """All stories of the packed corpus, in order."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [Story(**json.loads(line)) for line in lines]


def split(stories: list[Story]) -> tuple[list[Story], list[Story]]:
    """(training, validation): every 50th story is held out."""
    held = stories[::VALIDATION_EVERY]
    train = [s for i, s in enumerate(stories) if i % VALIDATION_EVERY]
    return train, held


def draw(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Sample columns [B] of logits [B, V] with the corpus' temperature, top-k and top-p."""
    top, ids = (logits / TEMPERATURE).topk(TOP_K)
    p = top.softmax(-1)
    p[p.cumsum(-1) - p > TOP_P] = 0.0
    return ids.gather(1, torch.multinomial(p, 1, generator=generator))[:, 0]


def sample_batch(teacher: teacher_file.Teacher, seed: int) -> list[list[int]]:
    """Piece ids of BATCH stories; a trailing BOS marks a story that the teacher closed."""
    generator = torch.Generator().manual_seed(seed)
    pieces = json.loads((RECIPE / "pieces.json").read_text())[1:]  # the first two are both BOS
    model = teacher_file.CausalTeacher(teacher, BATCH, torch.bfloat16, pieces)
    piece_of = torch.tensor(pieces)
    rows: list[list[int]] = [[] for _ in range(BATCH)]
    written_by = torch.arange(BATCH)  # the story that each row of the model writes
    ids = torch.full((BATCH, 1), teacher_file.BOS)
    going = torch.ones(BATCH, dtype=torch.bool)
    for position in range(MAX_TOKENS):
        ids = piece_of[draw(model(ids, position)[:, -1], generator)][:, None]
        for story, i in zip(written_by[going].tolist(), ids[going, 0].tolist(), strict=True):
            rows[story].append(i)
        going = going & (ids[:, 0] != teacher_file.BOS)
        if not going.any():
            break
        if position % 16 == 15:  # drop the rows of closed stories
            model.keep(going)
            written_by, ids, going = written_by[going], ids[going], going[going]
    return rows


def sample_part(n: int) -> None:
    """Write batch n to the work folder, unless it is there."""
    part = PARTS / f"{n:05d}.json"
    if part.exists():
        return
    from recipes.stories.build_tokenizer import full_tokenizer

    keep_freed_memory()
    torch.set_num_threads(1)  # one process a core: the products are too small to share
    teacher = teacher_file.load(teacher_file.download(WORK / "teacher"))
    tokenizer = full_tokenizer(teacher.pieces)
    found = [
        {
            "text": tokenizer.decode([i for i in row if i != teacher_file.BOS]).strip(),
            "ended": row[-1] == teacher_file.BOS,
        }
        for row in sample_batch(teacher, seed=n)
    ]
    part.with_suffix(".tmp").write_text(json.dumps(found))
    part.with_suffix(".tmp").replace(part)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stories", type=int, default=32_000, help="how many to have at the end")
    parser.add_argument("--out", type=Path, default=CORPUS)
    args = parser.parse_args()

    teacher_file.download(WORK / "teacher")
    PARTS.mkdir(parents=True, exist_ok=True)
    start = args.out if args.out.exists() else CORPUS
    seen = {s.text: s for s in read_corpus(start)} if start.exists() else {}
    first = -(-len(seen) // BATCH)  # the batches before made the stories that are there
    batches = range(first, max(first, -(-args.stories // BATCH)))
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for _ in track(pool.map(sample_part, batches), "sampling", len(batches)):
            pass
    for n in batches:
        for story in json.loads((PARTS / f"{n:05d}.json").read_text()):
            seen.setdefault(story["text"], Story(**story))
    with gzip.open(args.out, "wt", encoding="utf-8") as out:
        for story in seen.values():
            out.write(json.dumps(story.__dict__, ensure_ascii=False) + "\n")
    print(f"{len(seen)} unique stories -> {args.out}")


if __name__ == "__main__":
    main()
