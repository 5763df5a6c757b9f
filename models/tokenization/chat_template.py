"""Chat templates: messages to token ids, and nothing that a person writes is a special token."""

from __future__ import annotations

import json
import re
import secrets
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError

from models.checkpoints.weights import read_json
from models.tokenization import template_worker

TOKEN_NAMES = ("bos_token", "eos_token", "pad_token", "unk_token", "mask_token")
LONGEST = 1 << 17  # characters of a template; those that are published have some thousand

Pieces = list[tuple[str, bool]]
"""A conversation as pieces of text, in order; true marks a special token."""


class ChatError(ValueError):
    """Messages that the checkpoint's template refuses."""


class ChatTemplate:
    """A checkpoint's own template (Jinja), from ``chat_template.jinja`` or
    ``tokenizer_config.json``.

    A template is a program of somebody else's. It runs in Jinja's sandbox, in a process of its own
    with limits of CPU time, memory and text (``template_worker``), one conversation at a time: a
    bad one costs its own request at most ``CPU_SECONDS`` of one core, ``WALL_SECONDS`` by the
    clock, and nobody else anything but the wait for the same template. The process starts with the
    first conversation, about a tenth of a second, and again after one that had to be ended.
    """

    def __init__(self, source: str, variables: Mapping[str, str]) -> None:
        """``variables`` are the names of special tokens that the template may use.

        Raises:
            ValueError: the source is not a template.
        """
        if len(source) > LONGEST:
            raise ValueError(f"chat template: longer than {LONGEST} characters")
        try:
            template_worker.environment().parse(source)  # no more than its grammar: nothing runs
        except TemplateError as error:
            raise ValueError(f"chat template: {error}") from None
        except RecursionError:
            raise ValueError("chat template: nested too deeply") from None
        self.source = source
        self._variables = dict(variables)
        self._process: subprocess.Popen[bytes] | None = None
        self._end: Callable[[], object] = lambda: None
        self._thread = ThreadPoolExecutor(1, "xdlm-template")

    @classmethod
    def load(cls, folder: Path) -> ChatTemplate | None:
        """The template of a checkpoint folder, if it has one.

        Raises:
            CheckpointError: ``tokenizer_config.json`` is damaged.
            ValueError: it has one that cannot be read.
        """
        config = read_json(folder / "tokenizer_config.json", required=False)
        source = config.get("chat_template")
        if (folder / "chat_template.jinja").is_file():
            try:
                source = (folder / "chat_template.jinja").read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"chat_template.jinja: {error}") from None
        if isinstance(source, list):  # several by name
            try:
                source = {entry["name"]: entry["template"] for entry in source}.get("default")
            except (TypeError, KeyError):
                raise ValueError("chat_template: entries have a name and a template") from None
        if source is None:
            return None
        if not isinstance(source, str):
            raise ValueError("chat_template must be a text")
        texts: dict[str, str] = {}
        for name in TOKEN_NAMES:
            token = config.get(name)
            text = token.get("content") if isinstance(token, dict) else token or ""
            if not isinstance(text, str):
                raise ValueError(f"{name} of tokenizer_config.json is no text")
            if text:
                texts[name] = text
        return cls(source, texts)

    def render(self, messages: Sequence[Mapping[str, str]], special: Sequence[str]) -> Pieces:
        """The conversation as the template writes it.

        Raises:
            ChatError: the template refuses the messages, fails, or does not come to an end.
        """
        return self.submit(messages, special).result()

    def submit(
        self, messages: Sequence[Mapping[str, str]], special: Sequence[str]
    ) -> Future[Pieces]:
        """``render``, for those who do something else meanwhile: behind earlier conversations, on a
        thread of the template's own.
        """
        return self._thread.submit(self._render, messages, special)

    def _render(self, messages: Sequence[Mapping[str, str]], special: Sequence[str]) -> Pieces:
        """A message that spells out a special token is interrupted there while the template runs,
        so that only the template's own tokens are found in its output.
        """
        guard = f"\ue000{secrets.token_hex(8)}\ue001"
        spelled = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))))

        def shielded(text: str) -> str:
            return spelled.sub(lambda m: m[0][0] + guard + m[0][1:], text) if special else text

        safe = [{k: shielded(v) for k, v in message.items()} for message in messages]
        text = self._run({"messages": safe, "add_generation_prompt": True, **self._variables})
        if not special:
            return [(text.replace(guard, ""), False)]
        pieces = re.split(f"({spelled.pattern})", text)
        marked = [(piece.replace(guard, ""), i % 2 == 1) for i, piece in enumerate(pieces)]
        return [piece for piece in marked if piece[0]]

    def _run(self, variables: Mapping[str, Any]) -> str:
        """What the template writes, in its process.

        Raises:
            ChatError: see ``render``.
        """
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._process = _start(self.source)
            self._end = weakref.finalize(self, _end, self._process)
        told = _ask(self._process, variables)
        if told is None:
            self._end()
            if -self._process.returncode in (signal.SIGPROF, signal.SIGALRM):
                limit = f"{template_worker.CPU_SECONDS:g} s of CPU time"
                raise ChatError(f"the chat template takes more than {limit} for these messages")
            raise ChatError("the chat template's process ended over these messages")
        if "refused" in told:
            raise ChatError(told["refused"])
        if "error" in told:
            raise ChatError(f"the chat template cannot take these messages: {told['error']}")
        return told["text"]


def _start(source: str) -> subprocess.Popen[bytes]:
    """A process for a template. It ends when nobody can ask it any more."""
    process = subprocess.Popen(
        [sys.executable, "-I", template_worker.__file__],  # -I: neither our folder nor PYTHONPATH
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    _write(process, source)
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def _ask(process: subprocess.Popen[bytes], question: object) -> dict[str, str] | None:
    """The answer, or nothing where the process ended over the question."""
    assert process.stdout is not None
    _write(process, question)
    line = process.stdout.readline()
    return json.loads(line) if line.endswith(b"\n") else None


def _write(process: subprocess.Popen[bytes], text: object) -> None:
    """A line for the process; one that has ended is found out by who waits for its answer."""
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.write(json.dumps(text).encode() + b"\n")
        process.stdin.flush()
