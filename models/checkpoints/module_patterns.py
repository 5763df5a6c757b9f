"""Regular expressions for names of modules, as an adapter's config has them.

Whoever wrote the file chose them, and one can take longer on a name than anybody waits. Those that
are more than a name are therefore matched in a process with a limit of CPU time.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence

NAME = re.compile(r"[\w.\\-]+")
MOST_NAMES = 1 << 12
SECONDS = 10
PROGRAM = """if True:
    import json, re, resource, sys
    resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[1]),) * 2)
    patterns, names = json.load(sys.stdin)
    made = []
    for pattern in patterns:
        try:
            re.compile(pattern)
            made.append(re.compile(rf"(.*\\.)?({pattern})$"))
        except (re.error, RecursionError) as error:
            print(json.dumps(f"{pattern[:64]!r}: {error}"))
            sys.exit()
    found = (next((i for i, p in enumerate(made) if p.match(name)), None) for name in names)
    print(json.dumps(list(found)))
"""


def first_matches(
    patterns: Sequence[str], names: Sequence[str], seconds: int = SECONDS
) -> list[int | None]:
    """For each name, the number of the first pattern that matches the end of it from a dot on.

    Args:
        patterns: regular expressions.
        names: of modules.
        seconds: of CPU time that this may take.

    Raises:
        ValueError: an expression that is none, or takes longer.
    """
    if len(patterns) <= MOST_NAMES and all(map(NAME.fullmatch, patterns)):
        plain = [_compiled(pattern) for pattern in patterns]
        return [next((i for i, p in enumerate(plain) if p.match(name)), None) for name in names]
    done = subprocess.run(
        # -I: neither the working folder nor PYTHONPATH
        [sys.executable, "-I", "-c", PROGRAM, str(seconds)],
        input=json.dumps([patterns, names]),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={},  # none of the server's keys
    )
    if done.returncode:
        raise ValueError(f"matching {len(patterns)} patterns takes more than {seconds} s")
    told = json.loads(done.stdout)
    if isinstance(told, str):
        raise ValueError(told)
    return told


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(rf"(.*\.)?({pattern})$")
    except re.error as error:
        raise ValueError(f"{pattern[:64]!r}: {error}") from None
