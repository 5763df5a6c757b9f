"""Runs a load test: identifies the server, measures the cells, judges the answers."""

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
    """Options of judging answers.

    Attributes:
        answers: number to judge for each setting; 0 disables judging.
        samples: Monte Carlo samples of each score.
        scorer: folder of a causal language model, or None.
        examples: file of labelled images, or None.
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

    If the plan has no model or prompts, the server's first model of the right kind is taken, and
    openings of stories or the names of classes.

    Raises:
        Unsuitable: the server cannot run this plan.
        Stale: the folder holds another run.
        OSError: the server cannot be reached.
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
                bar = bars.add_task("judging answers", total=None, state="")
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
    """The judge that the options select; importing or training one takes seconds."""
    if quality.examples is not None:
        from loadtest.image_classifier import Classifier

        return Classifier(quality.examples)
    if quality.scorer is not None:
        from loadtest.lm_scorer import Scorer

        return Scorer(quality.scorer)
    return None
