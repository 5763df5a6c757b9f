"""A hub of models on loopback, that speaks HTTP as ``huggingface_hub`` expects it."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

LARGE = ".safetensors"


@dataclass
class Asked:
    """A request for the content of a file."""

    method: str
    file: str
    first: int
    sent: int = 0


@dataclass
class Repository:
    """Files by name, and how they are sent.

    Attributes:
        files: contents.
        commit: that ``main`` and ``v1`` lead to.
        gated: only this token may read it.
        lies: files whose content has another last byte than the list of files says.
        cut: files whose next answers end after that many bytes, and the connection with them.
        stall: files whose next answer waits after that many bytes until ``Hub.go`` is set.
    """

    files: dict[str, bytes]
    commit: str = "a" * 40
    gated: str = ""
    lies: set[str] = field(default_factory=set)
    cut: dict[str, list[int]] = field(default_factory=dict)
    stall: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path, **others: bytes) -> Repository:
        """The files of a folder, and others whose names have ``_dot_`` for a dot."""
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        return cls(files | {n.replace("_dot_", "."): data for n, data in others.items()})


class Hub(ThreadingHTTPServer):
    """The server; ``asked`` has all requests for contents, in order."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.asked: list[Asked] = []
        self.paths: list[str] = []
        self.go = threading.Event()
        self.stalled = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def names(self, method: str = "GET") -> set[str]:
        """Files whose content was asked for."""
        return {each.file for each in self.asked if each.method == method}

    def sent(self, file: str) -> int:
        """Bytes of a file that were sent."""
        return sum(each.sent for each in self.asked if each.file == file)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has gone is no error of the hub."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        assert isinstance(self.server, Hub)
        return self.server

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.paths.append(path)
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"] and parts[4:5] == ["revision"]:
            self._info("/".join(parts[2:4]), "/".join(parts[5:]))
        elif parts[0] == "cdn":
            repository = self.hub.repositories["/".join(parts[1:3])]
            self._content(repository, parts[3], self._range())
        elif parts[2:3] == ["resolve"]:
            self._resolve("/".join(parts[:2]), parts[3], parts[4])
        else:
            self._fail(404, "EntryNotFound")

    def _allowed(self, name: str, revision: str) -> Repository | None:
        repository = self.hub.repositories.get(name)
        if repository is None:  # the hub does not say which names there are
            self._fail(401, "RepoNotFound")
        elif repository.gated and self.headers["Authorization"] != f"Bearer {repository.gated}":
            self._fail(401 if self.headers["Authorization"] is None else 403, "GatedRepo")
        elif revision not in ("main", "v1", repository.commit):
            self._fail(404, "RevisionNotFound")
        else:
            return repository
        return None

    def _info(self, name: str, revision: str) -> None:
        repository = self._allowed(name, revision)
        if repository is None:
            return
        siblings = []
        for file, data in repository.files.items():
            each = {"rfilename": file, "size": len(data), "blobId": _git_hash(data)}
            if file.endswith(LARGE):
                hashed = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
                each["lfs"] = hashed | {"pointerSize": 134}
            siblings.append(each)
        body = {"id": name, "modelId": name, "sha": repository.commit, "private": False}
        self._send(200, json.dumps(body | {"siblings": siblings}).encode())

    def _resolve(self, name: str, revision: str, file: str) -> None:
        repository = self._allowed(name, revision)
        if repository is None:
            return
        data = repository.files.get(file)
        if data is None:
            self._fail(404, "EntryNotFound")
        elif file.endswith(LARGE):
            digest = hashlib.sha256(data).hexdigest()
            store = self.hub.url.replace("127.0.0.1", "localhost")  # a host of its own
            self._send(
                302,
                b"",
                **{"Location": f"{store}/cdn/{name}/{file}", "ETag": f'"{digest[:32]}"'},
                **{"X-Linked-ETag": f'"{digest}"', "X-Linked-Size": str(len(data))},
                **{"X-Repo-Commit": repository.commit},
            )
        else:
            headers = {"ETag": f'"{_git_hash(data)}"', "X-Repo-Commit": repository.commit}
            self._content(repository, file, self._range(), **headers)

    def _range(self) -> tuple[int, int | None]:
        said = self.headers["Range"]
        if said is None:
            return 0, None
        first, _, last = said.removeprefix("bytes=").partition("-")
        return int(first), int(last) + 1 if last else None

    def _content(
        self, repository: Repository, file: str, part: tuple[int, int | None], **headers: str
    ) -> None:
        data = repository.files[file]
        if file in repository.lies:
            data = data[:-1] + bytes([data[-1] ^ 1])
        first, end = part
        asked = Asked(self.command, file, first)
        self.hub.asked.append(asked)
        whole = len(data)
        data = data[first:end]
        self.send_response(206 if self.headers["Range"] else 200)
        headers |= {"Content-Length": str(len(data)), "Accept-Ranges": "bytes"}
        if self.headers["Range"]:
            headers["Content-Range"] = f"bytes {first}-{first + len(data) - 1}/{whole}"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        cuts = repository.cut.get(file)
        if cuts and end is None:
            data = data[: cuts.pop(0)]
            self.close_connection = True
        pause = repository.stall.pop(file, None) if end is None else None
        if pause is not None:
            self.wfile.write(data[:pause])
            self.wfile.flush()
            asked.sent += pause
            data = data[pause:]
            self.hub.stalled.set()
            self.hub.go.wait(60)
        self.wfile.write(data)
        asked.sent += len(data)

    def _fail(self, status: int, code: str) -> None:
        self._send(status, b"{}", **{"X-Error-Code": code})

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub until the block ends."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield hub
    finally:
        hub.go.set()
        hub.shutdown()
        thread.join()
        hub.server_close()
