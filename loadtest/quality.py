"""Measures the quality of a run's answers, on the same answers whose latencies were measured.

Three measures need only the server, two need a judge:

- the bound of ``/v1/score``, nats per token: the likelihood of the text given its prompt under the
  model that generated it. Repetition is likely too, so read it together with the next two.
- entropy of a text's own tokens, in nats: lower if few tokens repeat often.
- repetition: the share of 4-grams that occurred before in the text.
- perplexity under a left-to-right language model (``lm_scorer.py``).
- for images, how often a classifier recognises the requested class (``image_classifier.py``).
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import aiohttp

from loadtest.plan import Plan
from loadtest.records import Folder, Record
from loadtest.samples import chosen

Row = dict[str, Any]
Judge = Callable[[str, str], Row]
"""Maps (prompt, answer) to further fields of a row."""

TOGETHER = 4
RUN = 4


def entropy(tokens: Sequence[Any]) -> float:
    """Entropy of the distribution of a text's tokens, in nats."""
    counts = Counter(tokens).values()
    return -sum(n / len(tokens) * math.log(n / len(tokens)) for n in counts)


def repetition(tokens: Sequence[Any]) -> float:
    """The share of runs of four tokens that repeat an earlier one; 0 for shorter texts."""
    runs = [tuple(tokens[i : i + RUN]) for i in range(len(tokens) - RUN + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


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
    """Judge the answers of all finished cells; results of earlier calls are kept.

    Args:
        session: HTTP session to the server, for scores.
        plan: of the run.
        folder: of the run; the rows go to its ``quality.jsonl``.
        texts: number of answers of each setting.
        samples: Monte Carlo samples of each score.
        judge: called for each answer, in a thread.
        progress: called with the numbers of judged answers and of all.
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
    """Bound, entropy and repetition of a text. If the server has no ``/v1/score``, there is no
    bound, and entropy and repetition are of words.
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
