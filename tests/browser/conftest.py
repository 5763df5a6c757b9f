"""Chromium in front of a real server; what the page may never do is watched in every test."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import structlog
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright
from tokenizers import Tokenizer, models, pre_tokenizers

from models.bundled import BUNDLED
from models.checkpoints.load import Checkpoint, load_checkpoint
from tests.support.serving import Served, make_engine, run_server, settings_of, write_tiny

HERE = Path(__file__).parent
BAD = ("error", "warning")
SLOW = 60_000  # milliseconds that a busy machine may take for anything
expect.set_options(timeout=SLOW)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    path = shutil.which("chromium")
    assert path is not None, "chromium is missing: make test-browser installs it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def loaded() -> dict[str, Checkpoint]:
    return {name: load_checkpoint(BUNDLED / name) for name in ("stories", "digits")}


@pytest.fixture(scope="session")
def served(loaded) -> Iterator[Served]:
    """Both bundled checkpoints."""
    engines = [make_engine(checkpoint) for checkpoint in loaded.values()]
    yield from run_server(engines[0], settings_of(checkpoints=list(loaded)), engines[1])


@pytest.fixture(scope="session")
def nasty(tmp_path_factory) -> Iterator[Served]:
    """A checkpoint whose every token is markup that would change the title of the page."""
    folder = write_tiny(tmp_path_factory.mktemp("nasty") / "tiny")
    size, mask = 4454, 4453
    vocab = {f"<img/src=x/onerror=\"document.title='pwned{i}'\">": i for i in range(2, size)}
    vocab |= {f"</script><script>document.title='pwned{i}'</script>": i for i in range(2, size, 2)}
    by_id = {i: piece for piece, i in vocab.items()}
    by_id |= {0: "<b>", 1: "<|end|>", mask: "<i>mask</i>"}
    words = models.WordLevel({piece: i for i, piece in by_id.items()}, unk_token="<b>")
    tokenizer = Tokenizer(words)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    yield from run_server(make_engine(load_checkpoint(folder)), settings_of())


class Watched:
    """A page, and what happened on it that must not."""

    def __init__(self, context: BrowserContext, origin: str) -> None:
        self.context, self.origin = context, origin
        self.wrong: list[str] = []
        self.page = context.new_page()
        self.page.set_default_timeout(SLOW)
        self.page.on("console", lambda m: self._note(m.text) if m.type in BAD else None)
        self.page.on("pageerror", lambda error: self._note(str(error)))
        self.page.on("dialog", lambda dialog: self._note(f"dialog {dialog.message}"))
        context.on("request", lambda request: self._leaves(request.url))

    def _note(self, what: str) -> None:
        self.wrong.append(what)

    def _leaves(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("blob", "data", "file") and url.removeprefix(self.origin) == url:
            self._note(f"left the origin: {url}")

    def open(self, fragment: str = "", settings: bool = True) -> Page:
        """The page, ready for use, with its settings open."""
        self.page.goto(f"{self.origin}/{fragment}")
        expect(self.page.locator("html[data-ready]")).to_be_attached()
        if settings:
            open_settings(self.page)
        return self.page

    def forgive(self, *words: str) -> None:
        """Drop what the browser itself reports of answers that are meant to fail."""
        self.wrong = [one for one in self.wrong if not any(word in one for word in words)]


Watching = Callable[..., Watched]


@pytest.fixture
def watch(chromium) -> Iterator[Watching]:
    """``watch(served, **options of the context)``; at the end nothing may have gone wrong."""
    opened: list[Watched] = []

    def begin(served: Any, **options: Any) -> Watched:
        options = {"viewport": {"width": 1300, "height": 900}, **options}
        context = chromium.new_context(accept_downloads=True, **options)
        opened.append(Watched(context, served.url))
        return opened[-1]

    yield begin
    for watched in opened:
        watched.context.close()
    wrong = [one for watched in opened for one in watched.wrong]
    assert not wrong


def open_settings(page: Page) -> None:
    button = page.get_by_role("button", name="Settings", exact=True)
    if button.get_attribute("aria-expanded") == "false":
        button.click()


def download(page: Page, name: str) -> bytes:
    """A file that the dialog of exports gives."""
    if not page.locator("#sharing").is_visible():
        page.get_by_role("button", name="Share", exact=True).click()
    with page.expect_download() as found:
        page.get_by_role("button", name=name, exact=True).click()
    return Path(found.value.path()).read_bytes()


def close_sharing(page: Page) -> None:
    page.locator("#sharing").get_by_role("button", name="Close").click()


def settled(page: Page, panes: int = 1) -> None:
    """All runs have ended well."""
    expect(page.locator(".facts [data-name=latency]")).to_have_count(panes)
    expect(page.locator("html:not([data-busy])")).to_be_attached()


def generate(page: Page, panes: int = 1, **fields: Any) -> None:
    """Fill fields of the form, start, and wait for the end."""
    if fields:
        open_settings(page)
    for name, value in fields.items():
        field = page.locator(f"#ask [name={name}], [form=ask][name={name}]")
        if field.evaluate("node => node.tagName") == "SELECT":
            field.select_option(str(value))
        else:
            field.fill(str(value))
            field.dispatch_event("change")
    page.get_by_role("button", name="Generate").click()
    settled(page, panes)


def canvas_text(page: Page, pane: int = 0) -> str:
    """The canvas as text."""
    return page.locator(".canvas").nth(pane).evaluate("node => node.textContent")


def place(page: Page) -> int:
    """Where the slider is."""
    return int(page.locator(".scrub").input_value())


def slider(page: Page) -> Locator:
    return page.locator(".scrub")


def call_json(served: Any, path: str, body: Any) -> Any:
    """An answer of the server, asked without the page."""
    import urllib.request

    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    request = urllib.request.Request(served.url + path, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=120) as response:
        return json.loads(response.read())


class Cutter:
    """A relay to a server that cuts the first stream of a run after so many bytes."""

    def __init__(self, port: int, cut_after: int) -> None:
        self.upstream, self.cut_after = port, cut_after
        self.cuts = 0
        self.resumed: list[bytes] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed at the end
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(("127.0.0.1", self.upstream))
                threading.Thread(target=self._up, args=(client, server), daemon=True).start()
                threading.Thread(target=self._down, args=(client, server), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if b"last-event-id:" in data.lower():
                    self.resumed.append(data)
                server.sendall(data)
            server.close()

    def _down(self, client: socket.socket, server: socket.socket) -> None:
        sent, stream = 0, False
        with contextlib.suppress(OSError):
            while data := server.recv(4096):
                stream = stream or b"content-type: text/event-stream" in data
                client.sendall(data)
                sent += len(data) if stream else 0
                if stream and not self.cuts and sent > self.cut_after:
                    self.cuts += 1
                    break
            for end in (client, server):
                end.shutdown(socket.SHUT_RDWR)
                end.close()

    def close(self) -> None:
        self.listener.close()


@pytest.fixture(scope="session", autouse=True)
def quiet() -> None:
    """Lines of requests that went well would be all over the report."""
    import logging

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
