"""The process in which chat templates run: Jinja's sandbox, under limits that the kernel keeps.

The sandbox keeps a template from Python's insides but not from long work: nested loops, and single
operations such as ``9 ** (9 ** 9)`` or ``"a" * 10 ** 9``, which nothing in the same process could
end. Here the kernel does: a process over its CPU time dies, whatever it is at, and memory over the
limit is refused. ``chat_template`` starts this file as its own program, so it imports nothing of
ours.

It reads a template's source, then requests for it, and answers each: JSON, one text a line.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from typing import IO, Any

from jinja2 import Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

CPU_SECONDS = 1.0
"""What one rendering may take; the first one compiles the template as well."""
WALL_SECONDS = 20.0
"""The same by the clock, for machines that have other things to do."""
MEMORY = 512 << 20
"""Bytes of address space; Python and Jinja take about 30 MiB of it."""
MOST_TEXT = 1 << 20
"""Characters that a template may write besides four times those that it was given."""
LONGEST_REASON = 500
"""Characters of an error that are told."""


class Refused(Exception):
    """The template itself wants none of these messages."""


def _refuse(message: object) -> None:
    raise Refused(str(message))


def environment() -> ImmutableSandboxedEnvironment:
    """Where chat templates are read and run."""
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    made.globals["raise_exception"] = _refuse
    return made


def render(template: Template, variables: dict[str, Any]) -> str:
    """What the template writes.

    Raises:
        ValueError: too much.
    """
    given = sum(len(text) for message in variables["messages"] for text in message.values())
    pieces, size, most = [], 0, MOST_TEXT + 4 * given
    for piece in template.generate(**variables):
        size += len(piece)
        if size > most:
            raise ValueError(f"it writes more than {most} characters")
        pieces.append(piece)
    return "".join(pieces)


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer until nobody asks any more."""
    source, template = json.loads(requests.readline()), None
    for line in requests:
        variables = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
        try:
            template = template or environment().from_string(source)
            answer = json.dumps({"text": render(template, variables)})
        except Refused as error:
            answer = json.dumps({"refused": str(error)[:LONGEST_REASON]})
        except Exception as error:  # a template may fail in any way that Python can
            reason = str(error) or type(error).__name__
            answer = json.dumps({"error": reason[:LONGEST_REASON]})
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(answer.encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for ending in (signal.SIGINT, signal.SIGTERM):  # it ends with the server, not before
        signal.signal(ending, signal.SIG_IGN)
    limits = (signal.SIGPROF, signal.SIGALRM)
    for limit in limits:
        signal.signal(limit, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, limits)
    serve(sys.stdin.buffer, sys.stdout.buffer)
