"""Locust users that read streams, and report when an answer began, settled and ended.

    locust -f loadtest/locustfile.py --host http://127.0.0.1:8000                  # a web page
    locust -f loadtest/locustfile.py --host http://127.0.0.1:8000 --headless -u 8 -t 30s
    locust -f loadtest/locustfile.py --host http://127.0.0.1:8000 --processes 2    # workers

The entry of a request has the time of the whole answer. Further entries of type ``after`` have the
times of the first event, the first settled text and the first full draft, and the server's own
times in the queue and denoising. Failures are counted by kind. A user stops if the server has no
model or chat template for it.

Locust users are a closed loop: a user that waits for an answer sends nothing. ``xdlm-loadtest
sweep --rate`` is an open loop.
"""

from __future__ import annotations

import random
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any, ClassVar, cast

from locust import HttpUser, between, events, task
from locust.exception import StopUser

from loadtest import prompts as prompt_files
from loadtest.answer_reader import AnswerReader, Kind, failure_of_status
from loadtest.plan import ROUTES, Setting, Workload


@events.init_command_line_parser.add_listener
def _options(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("diffusion")
    group.add_argument("--steps", type=int, default=16, help="0: the server's default")
    group.add_argument("--max-tokens", type=int, default=64)
    group.add_argument("--sampler", default="", help="empty: the server's default")
    group.add_argument("--prompts", default="", help="file: one a line, or JSONL with prompt")


class StreamUser(HttpUser):
    """Base class: sends one request after the other, and reads each stream as it arrives."""

    abstract = True
    wait_time = between(0.1, 0.5)
    kind: ClassVar[Kind]
    _workload: Workload | None = None

    def on_start(self) -> None:
        """Choose a model that can answer this user's requests."""
        with self.client.get("/v1/models", catch_response=True) as response:
            models = response.json()["data"] if response.ok else []
        drawing = self.kind == "images"
        able = [m for m in models if bool((m.get("diffusion") or {}).get("image")) == drawing]
        if not able:
            return
        options = self.environment.parsed_options
        assert options is not None
        names = tuple((able[0].get("diffusion") or {}).get("class_names") or ())
        own = prompt_files.read(Path(options.prompts)) if options.prompts else ()
        fields: dict[str, Any] = {"sampler": options.sampler} if options.sampler else {}
        self._setting = Setting(options.steps or None, None)
        self._workload = Workload(
            self.kind,
            able[0]["id"],
            names if drawing else own or prompt_files.OPENINGS,
            options.max_tokens,
            fields,
        )

    @task
    def ask(self) -> None:
        """Send one request and read its answer to the end."""
        if self._workload is None:
            raise StopUser
        body = self._workload.body(self._setting, 0, random.randrange(100_000))
        reading = AnswerReader()
        path = ROUTES[self.kind]
        began = time.perf_counter()
        with self.client.post(path, json=body, stream=True, catch_response=True) as response:
            if response.status_code == 200:
                for data in response.raw.stream(65536, decode_content=False):
                    reading.feed(data, time.perf_counter() - began)
                failure = reading.close()
            elif response.status_code:
                failure = failure_of_status(response.status_code, response.content)
            else:
                failure = "connect"
            # locust has the time of the headers here; replace it by that of the whole answer
            meta = cast(dict[str, Any], response.request_meta)
            meta["response_time"] = 1e3 * (time.perf_counter() - began)
            meta["response_length"] = len(reading.text)
            if failure is None:
                response.success()
            else:
                response.failure(failure)
        if failure is None:
            self._report(path, reading)
        elif failure.startswith(
            "HTTP 400"
        ):  # for example, no chat template: all further ones would fail too
            raise StopUser

    def _report(self, path: str, reading: AnswerReader) -> None:
        spent = reading.usage.get("diffusion") or {}
        marks = {
            "first event": reading.first and 1e3 * reading.first,
            "first settled": reading.settled and 1e3 * reading.settled,
            "full draft": reading.draft and 1e3 * reading.draft,
            "queue": spent.get("queue_ms"),
            "denoise": spent.get("denoise_ms"),
        }
        for name, milliseconds in marks.items():
            if milliseconds is not None:
                self.environment.events.request.fire(
                    request_type="after",
                    name=f"{path} {name}",
                    response_time=milliseconds,
                    response_length=0,
                    exception=None,
                    context={},
                )


class CompletionsUser(StreamUser):
    """Sends to /v1/completions."""

    kind = "completions"
    weight = 4


class ChatUser(StreamUser):
    """Sends to /v1/chat/completions."""

    kind = "chat"
    weight = 2


class TrajectoryUser(StreamUser):
    """Sends to /v1/diffusion/trajectories, whose records show the canvas."""

    kind = "trajectories"


class ImageUser(StreamUser):
    """Sends to /v1/images/generations."""

    kind = "images"
