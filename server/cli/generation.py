"""``xdlm generate`` and ``xdlm score``: one request run in this process, shown on the terminal."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, replace

from models.printable import json_line, printable
from server.cli.terminal import Viewer
from server.engine.engine import Engine
from server.engine.events import Done, Failed, GenerationRequest, Step
from server.engine.score_request import ScoreRequest
from server.engine.turns import TaskFailed
from server.output.score import score_record
from server.output.text import TrajectoryEncoder, text_of


class GenerationFailed(Exception):
    """The request ended with ``Failed``."""


async def _events(engine: Engine, request: GenerationRequest) -> AsyncIterator[Step | Done]:
    """All events of one request on an engine that runs for it alone."""
    engine.start()
    try:
        async for event in engine.submit(request):
            if isinstance(event, Failed):
                raise GenerationFailed(event.message)
            yield event
    finally:
        engine.stop()


async def show_ids(
    engine: Engine, request: GenerationRequest, prompt_length: int, as_json: bool
) -> None:
    """Print token ids; as JSON also the whole canvas before the first step and after each."""
    canvas: list[int] = []
    states: list[list[int]] = []
    async for event in _events(engine, replace(request, wants_steps=True)):
        if isinstance(event, Step):
            canvas = event.applied_to(canvas)
            states.append(canvas)
            continue
        ids = list(event.tokens[prompt_length:])
        print(json.dumps({"token_ids": ids, "states": states}) if as_json else ids)


async def show_text(
    engine: Engine,
    request: GenerationRequest,
    prompt_length: int,
    viewer: Viewer | None,
    as_json: bool,
) -> None:
    """Print the text; before it the steps, drawn by ``viewer`` or as lines of JSON, if the request
    wants them.
    """
    loaded = engine.checkpoint
    trajectory = TrajectoryEncoder(loaded)
    began, summary = time.monotonic(), ""
    try:
        async for event in _events(engine, request):
            if isinstance(event, Step):
                if viewer is not None:
                    await viewer.show(event)
                else:
                    trajectory.follow(event)
                    print(json_line(trajectory.record(event)))
                continue
            done = text_of(loaded, event.tokens, request.editable)
            if request.region is not None:
                done = replace(done, reason="stop")
            if as_json:
                record = {"text": done.text, "tokens": done.tokens, "finish_reason": done.reason}
                record |= {"params": asdict(request.params), "usage": asdict(event.tally)}
                print(json_line(record))
            elif viewer is None:
                before = loaded.tokenizer.decode(request.tokens[:prompt_length])
                print(printable(before + done.text, keep="\n\t"))
            summary = _summary(done.tokens, event, time.monotonic() - began)
    finally:
        if viewer is not None:
            viewer.close()
    print(summary, file=sys.stderr)


def _summary(tokens: int, done: Done, seconds: float) -> str:
    """A line about a text: its tokens, and what they took."""
    tally = done.tally
    line = f"{tokens} tokens, {tally.steps} steps, {tally.forwards} network evaluations"
    return f"{line}, {seconds:.2f} s"


async def show_score(engine: Engine, request: ScoreRequest, as_json: bool) -> None:
    """Print a score."""
    engine.start()
    try:
        score = await engine.score(request)
    except TaskFailed as error:
        raise GenerationFailed(str(error)) from None
    finally:
        engine.stop()
    record = score_record(engine.checkpoint, request, score)
    if as_json:
        print(json_line(record))
        return
    error = "" if score.standard_error is None else f" ± {score.standard_error:.2f}"
    print(f"{score.total:.2f}{error} nats, {record['nats_per_token']:.3f} a token")
    print(f"perplexity {record['perplexity']:.2f}, at most, by {request.params.samples} samples")
