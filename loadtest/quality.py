"""What the answers of a run are worth: measured on the same texts whose latencies were taken.

Three measures that need nothing but the server, and two that need a judge:

- the bound of ``/v1/score``, nats a token: how likely the model that wrote the text finds it,
  behind its prompt. Repeating oneself is likely too, so it is read beside the next two.
- entropy of a text's own tokens, in nats: lower where few tokens come again and again.
- repetition: the share of runs of four tokens that had been there before.
- perplexity under a left-to-right language model (``scorer.py``).
- for images, how often a classifier sees the class that was asked for (``judge.py``).
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import aiohttp

from loadtest.plan import Plan, Setting
from loadtest.records import Cell, Folder, Record

Row = dict[str, Any]
Judge = Callable[[str, str], Row]
"""Fields that a judge adds for (prompt, answer)."""

TOGETHER = 4
RUN = 4


def entropy(tokens: Sequence[Any]) -> float:
    """Of the distribution of a text's tokens, in nats."""
    counts = Counter(tokens).values()
    return -sum(n / len(tokens) * math.log(n / len(tokens)) for n in counts)


def repetition(tokens: Sequence[Any]) -> float:
    """The share of runs of four tokens that repeat an earlier one; 0 for shorter texts."""
    runs = [tuple(tokens[i : i + RUN]) for i in range(len(tokens) - RUN + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def chosen(cells: Sequence[Cell], plan: Plan, setting: Setting, most: int) -> list[Record]:
    """The answers of a setting that are judged: those with the lowest seeds, each seed once.

    Every setting has the same prompts and seeds, so settings are compared on the same ones. The
    load does not change what is written.
    """
    names = {p.name for p in plan.cells() if p.setting == setting}
    by_seed = {
        r.seed: r for cell in cells if cell.name in names for r in cell.records if not r.failure
    }
    return [by_seed[seed] for seed in sorted(by_seed)[:most]]


async def assess(
    session: aiohttp.ClientSession,
    plan: Plan,
    folder: Folder,
    *,
    texts: int,
    samples: int,
    judge: Judge | None,
    progress: Callable[[int, int], None],
) -> None:
    """Measure the answers of all finished cells. What had been measured before is kept.

    Args:
        session: to the server, for its scores.
        plan: of the run.
        folder: of the run; the rows go to its ``quality.jsonl``.
        texts: how many answers of each setting.
        samples: Monte Carlo samples behind each score.
        judge: one more look at each answer; slow ones are run beside the event loop.
        progress: told how many are done, of how many.
    """
    cells = list(folder.cells())
    known = {(row["setting"], row["seed"]): row for row in folder.quality()}
    rows: list[Row] = []
    todo: list[tuple[Row, Record]] = []
    for setting in plan.settings:
        for record in chosen(cells, plan, setting, texts):
            row = known.get((setting.name, record.seed), {})
            row |= {"setting": setting.name, "seed": record.seed, "prompt": record.prompt}
            rows.append(row)
            todo.append((row, record))
    at_once, judging = asyncio.Semaphore(TOGETHER), asyncio.Lock()
    done = 0

    async def look(row: Row, record: Record) -> None:
        nonlocal done
        prompt = plan.workload.prompts[record.prompt]
        async with at_once:
            if plan.workload.kind != "images" and "entropy" not in row:
                row |= await score(session, plan, prompt, record, samples)
        if judge is not None:
            async with judging:
                row |= await asyncio.to_thread(judge, prompt, record.text)
        done += 1
        progress(done, len(todo))

    await asyncio.gather(*(look(row, record) for row, record in todo))
    folder.keep_quality(rows)


async def score(
    session: aiohttp.ClientSession, plan: Plan, prompt: str, record: Record, samples: int
) -> Row:
    """Bound, entropy and repetition of a text. Where the server has no ``/v1/score`` there is no
    bound, and its words stand in for tokens.
    """
    body: Row = {"text": record.text, "samples": samples, "seed": record.seed}
    if plan.workload.kind != "chat":  # there, the template stands between prompt and answer
        body["prompt"] = prompt
    if plan.workload.model is not None:
        body["model"] = plan.workload.model
    answer: Row | None = None
    if record.text.strip():
        async with session.post("/v1/score", json=body) as response:
            answer = await response.json() if response.status == 200 else None
    if answer is None:
        words = record.text.split()
        return {"unit": "word", **_shape(words)} if words else {"unit": "word", "count": 0}
    ids = [token["id"] for token in answer["tokens"]]
    return {"unit": "token", "nats": answer["nats"], "nats_se": answer["standard_error"]} | _shape(
        ids
    )


def _shape(tokens: Sequence[Any]) -> Row:
    return {"count": len(tokens), "entropy": entropy(tokens), "repetition": repetition(tokens)}
