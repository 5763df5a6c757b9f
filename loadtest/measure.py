"""A whole run: the server is asked who it is, its cells are measured, its answers are judged."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
from rich.console import Console

from loadtest import server_probe
from loadtest.client import open_session
from loadtest.plan import Plan
from loadtest.prompts import OPENINGS
from loadtest.quality import Judge, assess
from loadtest.records import Folder
from loadtest.sweep import display, resume, run_cells


@dataclass(frozen=True)
class Quality:
    """How answers are judged.

    Attributes:
        answers: of each setting; none are judged where this is 0.
        samples: Monte Carlo samples behind each score.
        scorer: folder of a causal language model.
        examples: labelled images.
    """

    answers: int
    samples: int
    scorer: Path | None = None
    examples: Path | None = None


async def measure(
    url: str,
    plan: Plan,
    folder: Folder,
    quality: Quality,
    key: str | None,
    weights: Path | None,
    seconds: float,
    console: Console,
) -> int:
    """Run the plan; returns how many cells are left when ``seconds`` are over.

    The plan's model and prompts may be left open: the server's first model that is of the right
    kind, and stories' openings or the names of classes.

    Raises:
        Unsuitable: the server does not do this.
        Stale: the folder has another run.
        OSError: there is no server.
    """
    until = time.monotonic() + seconds
    images = plan.workload.kind == "images"
    judge = _judge(quality)
    async with open_session(url, key) as session:
        try:
            model = await server_probe.choose_model(session, plan.workload.model, images)
        except aiohttp.ClientConnectorError as error:
            raise OSError(f"no server at {url}: {error.os_error.strerror}") from None
        known = model.get("diffusion") or {}
        prompts = plan.workload.prompts or tuple(known.get("class_names") or ()) or OPENINGS
        plan = replace(plan, workload=replace(plan.workload, model=model["id"], prompts=prompts))
        run = resume(folder, plan, await server_probe.environment(session, model, weights))
        with display(console) as bars:
            left = await run_cells(session, plan, run, folder, bars, until)
            if quality.answers and not left:
                bar = bars.add_task("judging answers", total=None, told="")
                await assess(
                    session,
                    plan,
                    folder,
                    texts=quality.answers,
                    samples=quality.samples,
                    judge=judge,
                    progress=lambda done, of: bars.update(bar, completed=done, total=of),
                )
        return left


def _judge(quality: Quality) -> Judge | None:
    """The judges take seconds to import or to train, so only who is wanted is."""
    if quality.examples is not None:
        from loadtest.image_classifier import Classifier

        return Classifier(quality.examples)
    if quality.scorer is not None:
        from loadtest.lm_scorer import Scorer

        return Scorer(quality.scorer)
    return None
