"""The process of a chat template: it costs nobody else anything, survives nothing of the server's
end, and knows no key.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.tokenization import chat_template as chat
from models.tokenization.chat_template import ChatBusy, ChatTemplate
from tests.support.http import call, wait_for
from tests.support.processes import serving
from tests.support.serving import write_tiny
from tests.support.sockets import reset, send

KEY = "sk-a-key-that-nobody-else-may-see"
TALK = [{"role": "user", "content": "hello"}]
PICKY = (
    "{% if messages[0].content == 'endless' %}"
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}"
    "{{ messages[0].content }}"
)
"""It does not end for one message, and ends for all others."""


def folder_with(place: Path, template: str) -> Path:
    folder = write_tiny(place / "tiny")
    (folder / "chat_template.jinja").write_text(template)
    return folder


def body(content: str) -> dict:
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 4, "steps": 2}


def children(pid: int, sign: str) -> list[int]:
    """Living children whose command line has ``sign`` in it."""
    found = []
    for line in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in line.read_text().split():
            command = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            if sign in command:
                found.append(int(child))
    return found


def state(pid: int) -> str:
    """R, S, T, Z ... or nothing where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def is_gone(pid: int) -> bool:
    return state(pid) in ("", "Z")


@pytest.fixture
def template() -> Iterator[ChatTemplate]:
    yield from ready_template()


def ready_template(**settings: float) -> Iterator[ChatTemplate]:
    made = ChatTemplate(PICKY, {}, **settings)
    assert made.render(TALK, []) == [("hello", False)]
    yield made
    made._end()


def pid_of(template: ChatTemplate) -> int:
    assert template._process is not None
    return template._process.pid


def test_row_34_a_stopped_process_is_replaced_and_the_conversation_rendered(template):
    for _ in range(2):
        stopped = pid_of(template)
        os.kill(stopped, signal.SIGSTOP)
        begun = time.monotonic()
        assert template.render(TALK, []) == [("hello", False)]
        assert time.monotonic() - begun < 5
        assert pid_of(template) != stopped and is_gone(stopped)


def test_row_34_a_process_stopped_over_a_large_question_is_replaced(template):
    os.kill(pid_of(template), signal.SIGSTOP)
    large = "x" * (1 << 20)  # more than a pipe holds
    assert template.render([{"role": "user", "content": large}], []) == [(large, False)]


def test_row_34_a_cancelled_rendering_gives_its_time_to_the_next(template):
    endless = [{"role": "user", "content": "endless"}]
    asked = [template.submit(endless, []) for _ in range(25)]
    time.sleep(0.2)
    assert all(future.cancel() for future in asked)
    begun = time.monotonic()
    assert template.render(TALK, []) == [("hello", False)]
    assert time.monotonic() - begun < 2


def test_row_34_a_queue_over_its_bound_is_refused_in_words(template):
    endless = [{"role": "user", "content": "endless"}]
    asked = [template.submit(endless, []) for _ in range(chat.MOST_WAITING)]
    with pytest.raises(ChatBusy, match=f"the limits are {chat.MOST_WAITING} and"):
        template.submit(TALK, [])
    for future in asked:
        future.cancel()
    assert template.render(TALK, []) == [("hello", False)]
    long = [{"role": "user", "content": "x" * (chat.MOST_TEXT_WAITING // 4)}]
    asked = [template.submit(endless, []), *(template.submit(long, []) for _ in range(3))]
    with pytest.raises(ChatBusy, match=f"and {chat.MOST_TEXT_WAITING}$"):
        template.submit(long, [])
    for future in asked:
        future.cancel()


@pytest.mark.slow
def test_row_34_conversation_that_waits_too_long_is_refused():
    """An endless one takes a second of CPU time, so the last waits for five seconds and more."""
    for template in ready_template(wait_seconds=3):
        endless = [{"role": "user", "content": "endless"}]
        asked = [template.submit(endless, []) for _ in range(5)]
        last = template.submit(TALK, [])
        with pytest.raises(ChatBusy, match="had no time for 3 s"):
            last.result(timeout=60)
        for future in asked:
            future.cancel()


def test_row_34_clients_that_hang_up_over_an_endless_template_cost_the_next_one_nothing(tmp_path):
    folder = folder_with(tmp_path, PICKY)
    with serving(str(folder)) as server:

        def ask(content: str) -> tuple[int, float]:
            begun = time.monotonic()
            response, _ = call(server, "POST", "/v1/chat/completions", body(content))
            return response.status, time.monotonic() - begun

        assert ask("hello")[0] == 200
        gone = [send(server.port, body("endless"), path="/v1/chat/completions") for _ in range(25)]
        time.sleep(0.3)
        for connection in gone:
            reset(connection)
        status, seconds = ask("hello")
        assert status == 200 and seconds < 5
        gone = [
            send(server.port, {"messages": body("endless")["messages"]}, path="/tokenize")
            for _ in range(25)
        ]
        time.sleep(0.3)
        for connection in gone:
            reset(connection)
        status, seconds = ask("hello")
        assert status == 200 and seconds < 5


@pytest.mark.parametrize("before", ["idle", "busy", "stopped"])
def test_row_34_no_template_process_outlives_a_killed_server(tmp_path, before):
    folder, connections = folder_with(tmp_path, PICKY), []
    with serving(str(folder)) as server:
        assert call(server, "POST", "/v1/chat/completions", body("hello"))[0].status == 200
        (child,) = children(server.popen.pid, "template_worker")
        if before == "busy":
            connections.append(send(server.port, body("endless"), path="/v1/chat/completions"))
            time.sleep(0.2)
        elif before == "stopped":
            os.kill(child, signal.SIGSTOP)
            wait_for(lambda: state(child) == "T")
        server.popen.kill()
        server.popen.wait()
        wait_for(lambda: is_gone(child), 0.9)
        for connection in connections:
            connection.close()


def test_row_34_a_template_process_knows_no_key(tmp_path):
    folder = folder_with(tmp_path, PICKY)
    names = ("XDLM_API_KEYS", "HF_TOKEN", "OPENAI_API_KEY", "DB_PASSWORD")
    with serving(str(folder), port=0, **dict.fromkeys(names, KEY)) as server:
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        answer = call(server, "POST", "/v1/chat/completions", body("hello"), headers)
        assert answer[0].status == 200
        (child,) = children(server.popen.pid, "template_worker")
        for name in ("environ", "cmdline"):
            assert KEY.encode() not in Path(f"/proc/{child}/{name}").read_bytes()


@pytest.mark.slow
def test_row_34_ranks_know_no_key_and_do_not_outlive_a_killed_server(tmp_path):
    folder = write_tiny(tmp_path / "tiny")
    with serving(str(folder), "--tensor-parallel", "2", XDLM_API_KEYS=KEY) as server:
        others = children(server.popen.pid, "multiprocessing")
        assert others
        for child in others:
            assert KEY.encode() not in Path(f"/proc/{child}/environ").read_bytes()
        (rank,) = [c for c in others if "spawn_main" in Path(f"/proc/{c}/cmdline").read_text()]
        os.kill(rank, signal.SIGSTOP)
        wait_for(lambda: state(rank) == "T")
        server.popen.kill()
        server.popen.wait()
        wait_for(lambda: all(map(is_gone, others)), 5)
