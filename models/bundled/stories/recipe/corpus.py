"""Step 1: sample the corpus of children's stories from the teacher.

Each story is sampled at temperature 0.8, top-p 0.95 within the 48 likeliest pieces, at most 256
tokens, until the teacher closes it. Batches are seeded by their number, so the run can stop and go
on, and any batch can be made again alone. Duplicates are dropped when the file is packed.

    python -m models.bundled.stories.recipe.corpus --stories 16000      # an hour on two cores
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor

from models.bundled.stories.recipe import teacher as teacher_file

RECIPE = Path(__file__).parent
WORK = RECIPE / ".work"  # ignored by git: downloads, checkpoints of running jobs
CORPUS = RECIPE / "corpus.jsonl.gz"
TEMPERATURE, TOP_P, TOP_K, MAX_TOKENS, BATCH = 0.8, 0.95, 48, 256, 64
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
    """Sample ids [B] from logits [B, V] with the corpus' temperature, top-k and top-p."""
    top, ids = (logits / TEMPERATURE).topk(TOP_K)
    p = top.softmax(-1)
    p[p.cumsum(-1) - p > TOP_P] = 0.0
    return ids.gather(1, torch.multinomial(p, 1, generator=generator))[:, 0]


def sample_batch(model: teacher_file.CausalTeacher, seed: int) -> list[list[int]]:
    """Piece ids of BATCH stories; a trailing BOS marks a story that the teacher closed."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.full((BATCH, 1), teacher_file.BOS)
    open_ = torch.ones(BATCH, dtype=torch.bool)
    columns = []
    for position in range(MAX_TOKENS):
        ids = draw(model(ids, position)[:, -1], generator)[:, None]
        columns.append(torch.where(open_, ids[:, 0], -1))
        open_ &= ids[:, 0] != teacher_file.BOS
        if not open_.any():
            break
    rows = torch.stack(columns, 1).tolist()
    return [[i for i in row if i >= 0] for row in rows]


def stories_from(model: teacher_file.CausalTeacher, detokenise, batches: int) -> Iterator[Story]:
    """Stories of all batches; finished batches are read back from the work folder."""
    folder = WORK / "corpus"
    folder.mkdir(parents=True, exist_ok=True)
    for n in track(range(batches), description="sampling"):
        part = folder / f"{n:05d}.json"
        if not part.exists():
            rows = sample_batch(model, seed=n)
            found = [
                {
                    "text": detokenise([i for i in r if i != teacher_file.BOS]).strip(),
                    "ended": r[-1] == teacher_file.BOS,
                }
                for r in rows
            ]
            part.write_text(json.dumps(found))
        yield from (Story(**s) for s in json.loads(part.read_text()))


def main() -> None:
    from models.bundled.stories.recipe.build_tokenizer import full_tokenizer

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stories", type=int, default=16_000)
    parser.add_argument("--out", type=Path, default=CORPUS)
    args = parser.parse_args()

    teacher = teacher_file.load(teacher_file.download(WORK / "teacher"))
    model = teacher_file.CausalTeacher(teacher, BATCH)
    tokenizer = full_tokenizer(teacher.pieces)
    seen: dict[str, Story] = {}
    for story in stories_from(model, tokenizer.decode, -(-args.stories // BATCH)):
        seen.setdefault(story.text, story)
    with gzip.open(args.out, "wt", encoding="utf-8") as out:
        for story in seen.values():
            out.write(json.dumps(story.__dict__, ensure_ascii=False) + "\n")
    print(f"{len(seen)} unique stories -> {args.out}")


if __name__ == "__main__":
    main()
