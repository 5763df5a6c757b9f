"""The process in which chat templates run: Jinja's sandbox, under limits that the kernel keeps.

The sandbox keeps a template from Python's insides but not from long work: nested loops, and single
operations such as ``9 ** (9 ** 9)`` or ``"a" * 10 ** 9``, which nothing in the same process could
end. Here the kernel does: a process over its CPU time dies, whatever it is at, and memory over the
limit is refused. ``template_process`` starts it as ``PROGRAM``, without the server's environment;
it ends with the server.

It reads a template's source, then requests for it, and answers each: JSON, one text a line.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from typing import IO, Any

from jinja2 import Template
from jinja2.defaults import DEFAULT_NAMESPACE
from jinja2.sandbox import ImmutableSandboxedEnvironment

from models.child_processes import end_with
from models.tokenization.template_tokens import Marking, Marks, Pieces, messages_of
from models.tokenization.template_tools import texts_in

PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from models.tokenization.template_worker import main; main(int(sys.argv[2]))"
)
"""For ``python -I -c``, with the folder of our packages and the server's process id behind it."""

CPU_SECONDS = 1.0
"""Limit of one rendering; the first one compiles the template as well."""
WALL_SECONDS = 20.0
"""The same by the clock, for machines that have other things to do."""
MEMORY = 512 << 20
"""Bytes of address space; Python and Jinja take about 30 MiB of it."""
MOST_TEXT = 1 << 20
"""Characters that a template may write besides four times those that it was given."""
OF_JINJA = ("loop", "self", "super", "caller", "varargs", "kwargs", *DEFAULT_NAMESPACE)
GIVEN = ("messages", "tools", "add_generation_prompt", "raise_exception", *OF_JINJA)
"""Names that a template finds in every conversation, besides special tokens."""
LONGEST_REASON = 500
"""Characters of an error that are told."""


class Refused(Exception):
    """The template itself wants none of these messages."""


def _refuse(message: object) -> None:
    raise Refused(str(message))


def _as_json(value: Any, indent: int | None = None) -> str:
    """JSON as prompts have it: unlike Jinja's own, without escapes for HTML, names unsorted."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def environment() -> ImmutableSandboxedEnvironment:
    """Where chat templates are read and run."""
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    made.globals["raise_exception"] = _refuse
    made.filters["tojson"] = _as_json
    return made


def render(template: Template, marks: Marks, asked: dict[str, Any]) -> Pieces:
    """Render a conversation.

    Raises:
        ValueError: too much, or parts of its special tokens.
    """
    given = sum(len(text) for text in texts_in([asked["messages"], asked["tools"]]))
    variables = {**asked["settings"]}
    variables |= {name: marks.marked(text) for name, text in asked["variables"].items()}
    variables |= {"messages": messages_of(asked["messages"]), "add_generation_prompt": True}
    variables["tools"] = asked["tools"]
    pieces, size, most = [], 0, MOST_TEXT + 4 * given
    for piece in template.generate(**variables):
        size += len(piece)
        if size > most:
            raise ValueError(f"it writes more than {most} characters")
        pieces.append(piece)
    return marks.pieces("".join(pieces))


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer until nobody asks any more."""
    source, template = json.loads(requests.readline()), None
    made = environment()
    marking = Marking(made)
    for line in requests:
        asked = json.loads(line)
        texts = [source, *texts_in([asked["messages"], asked["tools"], asked["settings"]])]
        marks = marking.marks = Marks(asked["special"], texts)
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
        try:
            template = template or Template.from_code(
                made, made.compile(marking.parse(source)), made.make_globals(None)
            )
            answer = json.dumps({"pieces": render(template, marks, asked)})
        except Refused as error:
            answer = json.dumps({"refused": marks.plain(str(error))[:LONGEST_REASON]})
        except Exception as error:  # a template may fail in any way that Python can
            reason = marks.plain(str(error)) or type(error).__name__
            answer = json.dumps({"error": reason[:LONGEST_REASON]})
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(answer.encode() + b"\n")
        answers.flush()


def main(parent: int) -> None:
    """The program, for the server with this process id."""
    end_with(parent)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for ending in (signal.SIGINT, signal.SIGTERM):  # it ends with the server, not before
        signal.signal(ending, signal.SIG_IGN)
    limits = (signal.SIGPROF, signal.SIGALRM)
    for limit in limits:
        signal.signal(limit, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, limits)
    serve(sys.stdin.buffer, sys.stdout.buffer)
