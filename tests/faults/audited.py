"""``xdlm`` under an audit hook: whatever Python opens, imports, connects, starts or removes is
written down.

    python -m tests.faults.audited EVENTS ARGUMENT...     one command, in this process
    python -m tests.faults.audited --cases CASES.json     many, each in a child of its own

The interpreter imports the command first, so that what is written down is what a checkpoint made it
do. An audit hook sees Python's own calls; ``tests/faults/test_25_remote_code.py`` looks at the
system calls as well, where strace is at hand.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
import sysconfig
import time
import traceback
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from models.checkpoints.load import find_checkpoint, inspect_checkpoint

ROOT = Path(__file__).parent.parent.parent
WATCHED = ("open", "import", "exec", "socket.", "subprocess.", "os.", "shutil.", "urllib.")
UNSEEN = ("os.putenv", "os.unsetenv", "os.walk", "os.fwalk", "shutil.rmtree")
LIMIT_SECONDS = 20


class Event(NamedTuple):
    """Something that Python did: ``open`` of a path with a mode, ``socket.connect`` …"""

    name: str
    what: str
    how: str
    at: float


def watch(path: Path) -> None:
    """Write every event of this process from now on as a line of JSON."""
    out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    pid = os.getpid()

    def seen(name: str, arguments: tuple[Any, ...]) -> None:
        if os.getpid() != pid or not name.startswith(WATCHED) or name in UNSEEN:
            return
        what, how = (*arguments, None, None)[:2]
        if name == "exec":
            what = getattr(what, "co_filename", "?")
        if isinstance(what, bytes):
            what = os.fsdecode(what)
        os.write(out, (json.dumps([name, str(what), str(how), time.monotonic()]) + "\n").encode())

    sys.addaudithook(seen)


def events(path: Path) -> list[Event]:
    """Events read back from the file."""
    return [Event(*json.loads(line)) for line in path.read_text().splitlines()]


def foreign(seen: Iterable[Event], *folders: Path) -> list[Event]:
    """Events that reading a checkpoint does not need: files outside the folders and the
    installation, connections, other programs, code from files that are not installed.
    """
    paths = sysconfig.get_paths()
    installed = [Path(paths[name]) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    installed += [Path(place) for place in sys.path if place.endswith(".zip")]
    ours = [ROOT / name for name in ("server", "sampler", "models", "fusion")]
    home = [p for place in (*installed, *ours) for p in (place, place.resolve())]
    system = [
        Path(p) for p in ("/proc", "/sys", "/etc", "/usr/share", "/usr/lib", "/dev/null", "/dev/fd")
    ]
    data = [p for folder in folders for p in (folder, folder.resolve())]

    def inside(text: str, places: Iterable[Path]) -> bool:
        path = Path(os.path.normpath(text))
        return any(path == place or place in path.parents for place in places)

    def fine(event: Event) -> bool:
        if event.name == "import":  # found by name; what is run of it comes as open and exec
            return True
        if event.name == "exec":
            return event.what.startswith("<") or inside(event.what, home)
        if event.name in ("open", "os.listdir", "os.scandir"):
            by_number = event.what.isdecimal()
            return by_number or inside(event.what, [*home, *system, *data])
        # what ``convert`` writes and puts in place; what it takes away goes by its folder's number
        moves = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.copyfile")
        below = event.name in ("os.remove", "os.rmdir") and event.how.isdecimal()
        return event.name in moves and (below or inside(event.what, data))

    return [event for event in seen if not fine(event)]


def run(arguments: list[str]) -> None:
    """The command, as its console script runs it."""
    from server.cli import main

    sys.argv = ["xdlm", *arguments]
    sys.exit(main())


def _in_child(case: dict[str, Any]) -> int:
    """Run a case in a child; its exit status, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        for number in (1, 2):
            os.dup2(os.open(case["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        watch(Path(case["events"]))
        status = 70
        try:
            run(case["arguments"])
        except SystemExit as left:
            status = left.code if isinstance(left.code, int) else int(left.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            atexit._run_exitfuncs()  # the log's last lines are written there
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    until = time.monotonic() + LIMIT_SECONDS
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.01)
    return os.waitstatus_to_exitcode(ended[1])


def _main() -> None:
    for name in (
        "server.cli.app",
        "server.api.app",
        "models.checkpoints.convert",
        "uvicorn",
        "uvicorn.loops.auto",
    ):
        import_module(name)
    # PyTorch imports more, and makes its cache, when the first network is built
    inspect_checkpoint(find_checkpoint("stories"))
    first, *rest = sys.argv[1:]
    if first != "--cases":
        watch(Path(first))
        run(rest)
    cases = json.loads(Path(rest[0]).read_text())
    print(json.dumps([_in_child(case) for case in cases]))


if __name__ == "__main__":
    _main()
