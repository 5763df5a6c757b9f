"""Compiles constraints to automata over the tokens of a checkpoint, and keeps them."""

from __future__ import annotations

import json
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from models.checkpoints.load import Checkpoint
from models.line_process import LineProcess, Stopped
from sampler.constraints.byte_automaton import DEAD, ByteAutomaton
from sampler.constraints.token_automaton import TokenAutomaton
from sampler.constraints.token_bytes import TokenBytes, TooLarge
from server.constraints import worker
from server.constraints.spec import Spec

MOST_WAITING = 64
"""Constraints that wait to be compiled."""
MOST_ANSWER = 1 << 26
"""Bytes of an automaton as the process writes it."""


class BadConstraint(ValueError):
    """A constraint that cannot be compiled; the message follows the name of its field."""


class ConstraintBusy(Exception):
    """There is no time for more constraints now."""


@dataclass(frozen=True)
class Limits:
    """Limits of one constraint, and of all that are kept.

    Attributes:
        states: of an automaton over bytes.
        transitions: of an automaton over tokens.
        seconds: to compile.
        kept: automata.
    """

    states: int = 8192
    transitions: int = 262144
    seconds: float = 5.0
    kept: int = 256


class Constraints:
    """Compiled constraints of all checkpoints of a server.

    They are compiled one at a time on a thread: the part that a request could make large in a
    process with limits of time and memory, which starts with the first of them (about 0.1 s).
    """

    def __init__(self, limits: Limits | None = None) -> None:
        """None so far."""
        self.limits = limits or Limits()
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str], TokenAutomaton] = OrderedDict()
        self._vocabularies: dict[str, TokenBytes] = {}
        self._waiting = 0
        self._process: LineProcess | None = None
        self._end: Callable[[], object] = lambda: None
        self._thread = ThreadPoolExecutor(1, "xdlm-constraints")

    def compiled(self, spec: Spec, checkpoint: Checkpoint) -> Future[TokenAutomaton]:
        """The automaton of a constraint. The future raises ``BadConstraint``.

        Raises:
            ConstraintBusy: too many wait.
        """
        key = checkpoint.info.name, spec.key
        done: Future[TokenAutomaton] = Future()
        with self._lock:
            if (found := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                done.set_result(found)
                return done
            if self._waiting >= MOST_WAITING:
                raise ConstraintBusy(
                    f"{self._waiting} constraints wait to be compiled; the limit is {MOST_WAITING}"
                )
            self._waiting += 1
        future = self._thread.submit(self._compile, spec, checkpoint)
        future.add_done_callback(lambda _: self._leave())
        return future

    def close(self) -> None:
        """End the process; what waits is not compiled, and nothing can be any more."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self._process is not None:
            self._process.kill()  # the thread need not wait for its answer
        self._thread.shutdown()
        self._end()

    def _leave(self) -> None:
        with self._lock:
            self._waiting -= 1

    def _compile(self, spec: Spec, checkpoint: Checkpoint) -> TokenAutomaton:
        key = checkpoint.info.name, spec.key
        with self._lock:
            found = self._kept.get(key)
        if found is None:
            found = self._made(spec, checkpoint)
            with self._lock:
                self._kept[key] = found
                while len(self._kept) > self.limits.kept:
                    self._kept.popitem(last=False)
        return found

    def _made(self, spec: Spec, checkpoint: Checkpoint) -> TokenAutomaton:
        """Compile one.

        Raises:
            BadConstraint: it cannot be compiled.
        """
        vocabulary = self._vocabulary(checkpoint)
        language = self._language(spec)
        try:
            found = vocabulary.automaton(language, self.limits.transitions)
        except TooLarge as error:
            raise BadConstraint(str(error)) from None
        if found.start == DEAD:
            raise BadConstraint("allows no text that the model's tokens spell")
        _ = found.tokens_left, found.first, found.leaving  # made here, and not by the first request
        return found

    def _vocabulary(self, checkpoint: Checkpoint) -> TokenBytes:
        name = checkpoint.info.name
        if name not in self._vocabularies:
            data = checkpoint.tokenizer.texts(checkpoint.info.vocab_size)
            if data is None:
                raise BadConstraint("needs a tokenizer whose tokens stand for bytes of the text")
            self._vocabularies[name] = TokenBytes.of(
                checkpoint.info.vocab_size, data, tuple(checkpoint.ends)
            )
        return self._vocabularies[name]

    def _language(self, spec: Spec) -> ByteAutomaton:
        """The automaton over bytes, from the process.

        Raises:
            BadConstraint: there is none.
        """
        question = json.dumps({"kind": spec.kind, "value": spec.value}).encode() + b"\n"
        for _ in range(2):
            told = self._started().ask(question, lambda: False, MOST_ANSWER)
            if not isinstance(told, Stopped):
                break
        else:
            raise BadConstraint("cannot be compiled: the process is stopped from outside")
        if isinstance(told, int):
            limit = f"{self.limits.seconds:g} s of time and {worker.MEMORY >> 20} MiB"
            raise BadConstraint(f"takes more than {limit} to compile")
        if "refused" in told:
            raise BadConstraint(told["refused"])
        return ByteAutomaton.of(told["states"], told["accepting"], told["edges"])

    def _started(self) -> LineProcess:
        """The process, another one where the last has ended."""
        if self._process is None or self._process.poll() is not None:
            self._end()
            limits = {"states": self.limits.states, "seconds": self.limits.seconds}
            try:
                self._process = LineProcess(worker.PROGRAM, limits, 2 * self.limits.seconds + 1.0)
            except OSError as error:
                raise BadConstraint(f"cannot be compiled: {error.strerror}") from None
            self._end = weakref.finalize(self, self._process.end)
        return self._process
