"""The process in which constraints are compiled, under limits that the kernel keeps.

It reads limits, then constraints, one a line of JSON, and answers each: the automaton over bytes,
or why there is none. It starts as ``PROGRAM``, without the server's environment, and ends with the
server.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from typing import IO, Any

from models.child_processes import end_with
from server.constraints.determinize import automaton_of
from server.constraints.expressions import Expressions, TooComplex
from server.constraints.json_schema import BadSchema
from server.constraints.regex import BadRegex
from server.constraints.spec import expression_of

PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from server.constraints.worker import main; main(int(sys.argv[2]))"
)
"""For ``python -I -c``, with the folder of our packages and the server's process id behind it."""
MEMORY = 512 << 20
"""Bytes of address space."""
FRAMES = 20_000
"""Frames of Python: expressions refer to each other."""
EXPRESSIONS = 64
"""Expressions that there may be for each state that there may be."""


def answer(asked: dict[str, Any], limits: dict[str, Any]) -> dict[str, Any]:
    """The automaton of a constraint, or why there is none."""
    states, seconds = limits["states"], limits["seconds"]
    expressions = Expressions(EXPRESSIONS * states)
    try:
        language = expression_of(expressions, asked["kind"], asked["value"])
        found = automaton_of(expressions, language, states, seconds)
    except (BadRegex, BadSchema, TooComplex) as error:
        return {"refused": str(error)}
    except RecursionError:
        return {"refused": "is nested too deeply"}
    except MemoryError:
        return {"refused": f"needs more than {MEMORY >> 20} MiB of memory"}
    return vars(found)


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer until nobody asks any more."""
    limits = json.loads(requests.readline())
    for line in requests:
        seconds = 2 * limits["seconds"] + 1.0
        signal.setitimer(signal.ITIMER_PROF, seconds)
        text = json.dumps(answer(json.loads(line), limits))
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(text.encode() + b"\n")
        answers.flush()


def main(parent: int) -> None:
    """The program, for the server with this process id."""
    end_with(parent)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for ending in (signal.SIGINT, signal.SIGTERM):  # it ends with the server, not before
        signal.signal(ending, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGPROF,))
    sys.setrecursionlimit(FRAMES)
    serve(sys.stdin.buffer, sys.stdout.buffer)
