"""A process that has imported the server, and forks itself for each command.

Importing PyTorch and FastAPI takes seconds, more than most commands do. ``ForkedPopen`` is a
``subprocess.Popen`` whose child comes from this process: a process of its own with its own
environment, working folder, descriptors, limits and signals, that runs ``xdlm``'s entry point.
A child is a child of the one who asks (Linux's child subreaper), who waits for it as for any other.
"""

from __future__ import annotations

import array
import atexit
import ctypes
import gc
import json
import os
import random
import resource
import socket
import subprocess
import sys
import threading
from importlib import import_module
from typing import Any, NoReturn

PRELOADED = (
    *("server.cli.app", "server.api.app", "uvicorn", "uvicorn.loops.auto"),
    *("server.engine.factory", "server.output.png", "models.checkpoints.convert"),
)
SET_CHILD_SUBREAPER = 36  # prctl(2)
_asked: socket.socket | None = None


class ForkedPopen(subprocess.Popen[str]):
    """``subprocess.Popen([anything, *arguments])`` of the ``xdlm`` command."""

    def _execute_child(
        self,
        args: Any,
        executable: Any,
        preexec_fn: Any,
        close_fds: Any,
        pass_fds: Any,
        cwd: Any,
        env: Any,
        startupinfo: Any,
        creationflags: Any,
        shell: Any,
        *pipes: Any,
    ) -> None:
        """See ``subprocess`` of CPython 3.11 for the arguments; the pipes have their ends in pairs,
        the child's first for its input and last for its output.
        """
        assert not (shell or pass_fds or preexec_fn or executable)
        p2cread, _, _, c2pwrite, _, errwrite = ends = pipes[:6]
        given = {
            "arguments": [os.fspath(argument) for argument in args[1:]],
            "cwd": os.getcwd() if cwd is None else os.fspath(cwd),
            "env": {str(k): str(v) for k, v in (os.environ if env is None else env).items()},
            "files": resource.getrlimit(resource.RLIMIT_NOFILE),
        }
        child = [n if end < 0 else end for n, end in enumerate((p2cread, c2pwrite, errwrite))]
        asked = _fork_server()
        message = json.dumps(given).encode()
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", child))
        asked.sendmsg([len(message).to_bytes(4, "big")], [rights])
        asked.sendall(message)
        self.pid = int.from_bytes(_exactly(asked, 4), "big")
        self._child_created = True
        getattr(self, "_close_pipe_fds")(*ends)  # noqa: B009


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def _fork_server() -> socket.socket:
    """The connection to this process's fork server, which is started first."""
    global _asked
    if _asked is None:
        ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        _asked, theirs = socket.socketpair()
        program = [sys.executable, "-m", "tests.support.fork_server", str(theirs.fileno())]
        server = subprocess.Popen(program, pass_fds=[theirs.fileno()])
        theirs.close()

        def end() -> None:
            assert _asked is not None
            _asked.close()
            server.wait()

        atexit.register(end)
    return _asked


def _serve(connection: socket.socket) -> None:
    """Fork for each request, twice, so that the child has no living parent here."""
    while True:
        try:
            head, rights, _, _ = connection.recvmsg(4, socket.CMSG_SPACE(12))
            if not head:
                return
            given = json.loads(_exactly(connection, int.from_bytes(head, "big")))
        except (EOFError, ConnectionResetError):
            return
        descriptors = array.array("i", rights[0][2]).tolist()
        between = os.fork()
        if between == 0:
            child = os.fork()
            if child == 0:
                connection.close()
                _become(given, descriptors)
            connection.sendall(child.to_bytes(4, "big"))
            os._exit(0)
        os.waitpid(between, 0)
        for descriptor in descriptors:
            os.close(descriptor)


def _become(given: dict[str, Any], descriptors: list[int]) -> NoReturn:
    """Give this child what ``exec`` would have given it, and run the command to its end."""
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(given["cwd"])
    os.environ.clear()
    os.environ.update(given["env"])
    resource.setrlimit(resource.RLIMIT_NOFILE, tuple(given["files"]))
    random.seed()
    sys.argv = ["xdlm", *given["arguments"]]
    from server.cli import main

    status = 0
    try:
        main()
    except SystemExit as ended:
        status = int(ended.code or 0)
    # as Python ends, but for freeing one by one the objects that the server has imported
    getattr(threading, "_shutdown")()  # noqa: B009
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    for name in PRELOADED:
        import_module(name)
    from models.checkpoints.load import find_checkpoint, inspect_checkpoint

    inspect_checkpoint(find_checkpoint("stories"))  # PyTorch imports more for the first network
    gc.freeze()
    _serve(socket.socket(fileno=int(sys.argv[1])))
