"""Chat templates: messages to token ids, and nothing that a person writes is a special token."""

from __future__ import annotations

import json
import secrets
import signal
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError

from models.files import read_json
from models.tokenization import template_worker
from models.tokenization.template_process import Stopped, TemplateProcess
from models.tokenization.template_tokens import Pieces
from models.tokenization.template_tools import ToolSupport, settings_of, texts_in

TOKEN_NAMES = ("bos_token", "eos_token", "pad_token", "unk_token", "mask_token")
LONGEST = 1 << 17  # characters of a template; those that are published have some thousand
MOST_WAITING = 1024
"""Conversations that wait for a template; one takes about a millisecond."""
MOST_TEXT_WAITING = 1 << 26
"""Characters of them, but for a single one."""
WAIT_SECONDS = 30.0
"""Default of ``ChatTemplate.wait_seconds``."""


class ChatError(ValueError):
    """Messages that the checkpoint's template refuses."""


class ChatBusy(Exception):
    """A template that has no time for more conversations now."""


class ChatTemplate:
    """A checkpoint's own template (Jinja), from ``chat_template.jinja`` or
    ``tokenizer_config.json``.

    Templates are untrusted programs. Each runs in Jinja's sandbox, in a process of its own with
    limits of CPU time, memory and text (``template_worker``), one conversation at a time. A
    template that does not end costs its request at most ``CPU_SECONDS`` of one core or
    ``WALL_SECONDS`` of time, and delays only requests for the same template. The process starts
    with the first conversation (about 0.1 s), and again after one that had to be ended.

    Attributes:
        source: the template's text.
        supports: the parts of a conversation with tools that it shows.
        settings: names of variables that it reads and that a conversation may set.
        shows_system: whether a system message reaches its output, once ``probe_system`` has run;
            None where that is unknown.
    """

    def __init__(
        self, source: str, variables: Mapping[str, str], wait_seconds: float = WAIT_SECONDS
    ) -> None:
        """Parse a template.

        Args:
            source: the template's text.
            variables: special tokens that the template may use, by name.
            wait_seconds: a conversation that has not begun after this is not rendered.

        Raises:
            ValueError: the source is not a template.
        """
        if len(source) > LONGEST:
            raise ValueError(f"chat template: longer than {LONGEST} characters")
        try:
            tree = template_worker.environment().parse(source)  # no more than its grammar
        except TemplateError as error:
            raise ValueError(f"chat template: {error}") from None
        except RecursionError:
            raise ValueError("chat template: nested too deeply") from None
        self.source = source
        self.supports = ToolSupport.of(source, tree)
        self.settings = settings_of(tree, (*template_worker.GIVEN, *TOKEN_NAMES, *variables))
        self.shows_system: bool | None = None
        self._variables = dict(variables)
        self._wait_seconds = wait_seconds
        self._queue = _Queue()
        self._probe = f"system probe {secrets.token_hex(8)}"
        self._probed: Future[Pieces] | None = None
        self._process: TemplateProcess | None = None
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
            file = folder / "chat_template.jinja"
            if file.stat().st_size > 4 * LONGEST:
                raise ValueError(f"chat_template.jinja: longer than {LONGEST} characters")
            try:
                source = file.read_text(encoding="utf-8")
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

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        special: Sequence[str],
        tools: Sequence[Mapping[str, Any]] = (),
        settings: Mapping[str, Any] | None = None,
    ) -> Pieces:
        """The conversation as the template writes it; of ``special``, only those are special tokens
        that it writes itself. It gets ``tools`` as None where there are none, and ``settings`` as
        variables.

        Raises:
            ChatError: the template refuses the messages, fails, or does not come to an end.
            ChatBusy: there is no place for it, see ``MOST_WAITING``.
        """
        return self.submit(messages, special, tools, settings).result()

    def begin_probe(self) -> None:
        """Have the template render a system message, which starts its process."""
        talk = [{"role": "system", "content": self._probe}, {"role": "user", "content": "x"}]
        self._probed = self.submit(talk, [])

    def probe_system(self, seconds: float = 5.0) -> None:
        """Find out whether a system message reaches the template's output: wait for the probe that
        was begun, or begin one, for at most so many seconds, and set ``shows_system``.
        """
        if self._probed is None:
            self.begin_probe()
        asked, self._probed = self._probed, None
        assert asked is not None
        try:
            pieces = asked.result(seconds)
        except ChatError:
            self.shows_system = False
        except (ChatBusy, TimeoutError):
            asked.cancel()
        else:
            self.shows_system = self._probe in "".join(text for text, _ in pieces)

    def submit(
        self,
        messages: Sequence[Mapping[str, Any]],
        special: Sequence[str],
        tools: Sequence[Mapping[str, Any]] = (),
        settings: Mapping[str, Any] | None = None,
    ) -> Future[Pieces]:
        """``render`` without waiting: after earlier conversations, on a thread of its own. A future
        that is cancelled takes no more time, also where its conversation is being rendered.

        Raises:
            ChatBusy: there is no place for it.
        """
        asked: dict[str, Any] = {"messages": messages, "special": special}
        asked["variables"] = self._variables
        asked |= {"tools": list(tools) or None, "settings": settings or {}}
        size = sum(len(text) for text in texts_in([*messages, *tools]))
        future: Future[Pieces] = Future()
        self._queue.enter(size)
        future.add_done_callback(lambda _: self._queue.leave(size))
        self._thread.submit(self._answer, future, asked, time.monotonic())
        return future

    def _answer(self, future: Future[Pieces], asked: object, since: float) -> None:
        """Render for a future, unless nobody waits for it any more."""
        if future.cancelled():
            return
        try:
            if time.monotonic() - since > self._wait_seconds:
                raise ChatBusy(f"the chat template had no time for {self._wait_seconds:g} s")
            told = self._run(json.dumps(asked).encode() + b"\n", future.cancelled)
        except Exception as error:
            with suppress(InvalidStateError):  # cancelled meanwhile
                future.set_exception(error)
            return
        with suppress(InvalidStateError):
            future.set_result([(text, special) for text, special in told])

    def _run(self, question: bytes, gone: Callable[[], bool]) -> list[tuple[str, bool]]:
        """Have the template's process render a conversation.

        Raises:
            ChatError: see ``render``.
        """
        for _ in range(2):
            told = self._started().put(question, gone)
            if not isinstance(told, Stopped):
                break
        else:
            raise ChatError("the chat template's process is stopped from outside")
        if isinstance(told, int):
            if -told in (signal.SIGPROF, signal.SIGALRM):
                limit = f"{template_worker.CPU_SECONDS:g} s of CPU time"
                raise ChatError(f"the chat template takes more than {limit} for these messages")
            raise ChatError("the chat template's process ended over these messages")
        if "refused" in told:
            raise ChatError(told["refused"])
        if "error" in told:
            raise ChatError(f"the chat template cannot take these messages: {told['error']}")
        return told["pieces"]

    def _started(self) -> TemplateProcess:
        """The template's process, another one where the last has ended.

        Raises:
            ChatBusy: the machine has no room for it.
        """
        if self._process is None or self._process.poll() is not None:
            self._end()
            try:
                self._process = TemplateProcess(self.source)
            except OSError as error:
                raise ChatBusy(f"the chat template cannot be run: {error.strerror}") from None
            self._end = weakref.finalize(self, self._process.end)
        return self._process


class _Queue:
    """Conversations that wait, counted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = self._size = 0

    def enter(self, size: int) -> None:
        """One more, of so many characters.

        Raises:
            ChatBusy: there are too many.
        """
        with self._lock:
            if self._count >= MOST_WAITING or self._size + size > max(size, MOST_TEXT_WAITING):
                raise ChatBusy(
                    f"{self._count} conversations with {self._size} characters wait for the chat "
                    f"template; the limits are {MOST_WAITING} and {MOST_TEXT_WAITING}"
                )
            self._count += 1
            self._size += size

    def leave(self, size: int) -> None:
        """One less."""
        with self._lock:
            self._count -= 1
            self._size -= size
