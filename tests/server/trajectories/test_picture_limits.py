"""Pictures that nobody should be able to ask for: refused before they are drawn."""

from __future__ import annotations

import copy
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from server.trajectories.picture_process import MAX_WAITING
from tests.support.effort import count, some
from tests.support.http import call, wait_for
from tests.support.memory import rss, within

PATH = "/v1/diffusion/pictures"


def created(positions: int, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "seed": 1, "positions": positions, "editable": [[0, positions]]}
    data = {"model": "m", "mask": {"id": 9}, "choices": [choice], "request": {}, **more}
    return {"event": "diffusion.created", "data": data}


def step(n: int, **more: Any) -> dict[str, Any]:
    data = {"choice": 0, "step": n, "steps": 40, "changes": [], **more}
    return {"event": "diffusion.step", "data": data}


def run_of(texts: list[str], frames: int = 2, **more: Any) -> dict[str, Any]:
    snapshot = {"ids": [1] * len(texts), "texts": texts}
    events = [step(n, **({"snapshot": snapshot} if n == 0 else {})) for n in range(frames)]
    return {"events": [created(len(texts), **more), *events]}


def asked(served, body: Any) -> tuple[int, dict[str, Any]]:
    response, text = call(served, "POST", PATH, body)
    return response.status, json.loads(text)["error"] if response.status != 200 else {}


@contextmanager
def health(served) -> Iterator[list[float]]:
    """Seconds that each answer of /health takes meanwhile."""
    waits, stop = [], threading.Event()

    def ask() -> None:
        while not stop.is_set():
            began = time.monotonic()
            call(served, "GET", "/health")
            waits.append(time.monotonic() - began)
            time.sleep(0.01)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield waits
    finally:
        stop.set()
        thread.join()


def large(runs: Any) -> bytes:
    return b'{"runs":[{"events":' + runs + b"}]}"


LINES = json.dumps({"runs": [run_of(["\n"] * 488, 40)]}).encode()
RANGES = run_of(["a"] * 65536)
RANGES["events"][0]["data"]["choices"][0]["editable"] = [[0, 65536]] * 100_000
ATTACKS = {
    "a line for each position": LINES,
    "more ranges than positions": json.dumps({"runs": [RANGES]}).encode(),
    "as many positions as there may be": json.dumps({"runs": [run_of(["a"] * 65536, 40)]}).encode(),
    "empty lists": large(b"[" + b"[]," * (2 << 20) + b"[]]"),
    "empty objects": large(b"[" + b"{}," * (2 << 20) + b"{}]"),
    "numbers": large(b"[" + b"1," * (4 << 20) + b"1]")[: 8 << 20],
    "names": b'{"' + b'":1,"'.join(b"%d" % n for n in range(600_000)) + b'":1}',
    "brackets": b"[" * (8 << 20),
    "one text": large(b'"' + b"x" * ((8 << 20) - 100) + b'"'),
    "one long number": large(b"9" * ((8 << 20) - 100)),
}


@pytest.mark.parametrize("name", some(ATTACKS, 2))
def test_a_body_made_to_cost_is_refused_beside_the_server(served, name):
    before = rss()
    with health(served) as waits:
        status, error = asked(served, ATTACKS[name])
    assert status == 400 and error["message"], error
    assert len(error["message"]) < 600
    assert max(waits) < 0.25
    assert within(before + (64 << 20) + 2 * len(ATTACKS[name]))


def test_a_picture_of_the_largest_body_is_drawn_beside_the_server(served):
    body = json.dumps({"runs": [run_of(["\r" * 15_000] * 200, 60)]}).encode()
    before = rss()
    with health(served) as waits:
        status, error = asked(served, body)
    assert status == 200, error
    assert max(waits) < 0.25
    assert within(before + (64 << 20) + 2 * len(body))


def test_a_refusal_by_size_names_both_numbers(served):
    _, error = asked(served, LINES)
    assert error["param"] == "runs" and error["code"] == "limit_exceeded"
    assert "67108864" in error["message"]
    _, error = asked(served, {"runs": [run_of(["a"] * 65536, 40)]})
    assert error["code"] == "limit_exceeded"
    assert str(40 * 65536) in error["message"] and str(1 << 19) in error["message"]


def changed(n: int, **data: Any) -> dict[str, Any]:
    run = copy.deepcopy(run_of(["a", "b"], 3))
    run["events"][n]["data"] |= data
    return run


CHANGE = {"pos": 0, "op": "unmask", "id": 1, "text": "a"}


@pytest.mark.parametrize(
    ("run", "words"),
    some(
        [
            (changed(1, step=10**30), "step is an integer of many digits"),
            (changed(1, step=-1), "step is -1"),
            (changed(1, steps=10**30), "steps"),
            (changed(1, steps="many"), "steps is no integer"),
            (changed(1, step=1.5), "step is no integer"),
            (changed(1, step=True), "step is no integer"),
            (changed(1, step=7), "step 1 comes after step 7"),
            (changed(1, choice=1), "choice is 1"),
            (changed(1, final=1), "final"),
            (changed(2, changes=[{**CHANGE, "pos": -1}]), "pos is -1"),
            (changed(2, changes=[{**CHANGE, "pos": 2}]), "pos is 2"),
            (changed(2, changes=[{**CHANGE, "id": -1}]), "id is -1"),
            (changed(2, changes=[{**CHANGE, "id": 2**31}]), "id is 2147483648"),
            (changed(2, changes=[{**CHANGE, "text": None}]), "text is no text"),
            (changed(2, changes=[{**CHANGE, "op": []}]), "op is none"),
            (changed(2, changes=[CHANGE, CHANGE]), "two changes of one position"),
            (changed(2, changes=[CHANGE] * 3), "changes has 3 entries; the limit is 2"),
            (changed(2, changes={}), "changes is no list"),
            (changed(1, snapshot={"ids": [1, 2]}), "texts is missing"),
            (changed(1, snapshot={"ids": [1, "x"], "texts": ["a", "b"]}), "snapshot.ids"),
            (changed(1, snapshot=None), "no snapshot"),
            (changed(0, mask="x"), "mask"),
            (changed(0, model=7), "model is no text"),
            (changed(0, request=[]), "request"),
            (changed(0, request={"sampler": {}}), "sampler"),
            (changed(0, ends=[-1]), "ends"),
            (changed(0, image={"width": 2}), "height is missing"),
            (changed(0, choices=[{"positions": 2, "editable": [[1, 0]]}]), "editable"),
            (changed(0, choices=[{"positions": 2, "editable": [[0, 3]]}]), "editable"),
            (changed(0, choices=[{"positions": -2, "editable": []}]), "positions is -2"),
            ({"events": [created(2), created(2)]}, "second"),
            ({"events": [created(2), 7]}, "events.1"),
            ({"events": {}}, "events"),
            ({}, "events"),
            ({"events": [], "id": 7}, "id is no text"),
        ],
        3,
    ),
)
def test_a_recording_that_does_not_fit_together_is_refused_in_words(served, run, words):
    status, error = asked(served, {"runs": [run]})
    assert status == 400 and error["param"] == "runs" and words in error["message"], error


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"\xff", None),
        (b'{"runs": NaN}', None),
        (b'{"runs": [], "runs": []}', None),
        (b'{"runs": ["\\ud800"]}', None),
        (b"[]", None),
        ({"runs": []}, "runs"),
        ({"runs": [{}] * 5}, "runs"),
        ({"runs": 7}, "runs"),
        ({}, "runs"),
        (json.dumps({"runs": []}).encode("utf-16"), None),
        ({"runs": [run_of(["a"])], "format": 1}, "format"),
        ({"runs": [run_of(["a"])], "format": []}, "format"),
        ({"runs": [run_of(["a"])], "size": 7}, "size"),
    ],
)
def test_a_body_that_is_no_such_body_is_refused_by_name(served, body, param):
    status, error = asked(served, body)
    assert status == 400 and error["param"] == param, error


CONTROLS = [
    *("\n", "\r", "a\nb", "a\rb", "\r\n", "\x00", "a\x00b", "\x1b[31mred", "\x7f", "\x85"),
    *("\u2028", "\u2029", "\u202e", "\ufeff", "\U000e0001", "\U0010ffff", "\t\t\t", "<s>"),
]


@pytest.mark.parametrize("text", some(CONTROLS, 3))
def test_a_token_of_control_characters_is_drawn(served, text):
    run = run_of([text, "b" + text, text + "c"])
    every = count(2, 1)  # the forms in turn in ``make test``
    for form in ("gif", "png")[CONTROLS.index(text) % every :: every]:
        status, error = asked(served, {"runs": [run], "format": form})
        assert status == 200, error


def test_what_is_left_open_or_null_is_a_gif(served):
    for body in ({}, {"format": None}):
        response, text = call(served, "POST", PATH, {**body, "runs": [run_of(["a"])]})
        assert response.status == 200 and text.startswith(b"GIF89a")


def test_pictures_beyond_the_queue_are_refused_and_abandoned_ones_are_dropped(served):
    """The bodies of those that hang up are not drawn: the next picture is not behind them."""
    body = json.dumps({"runs": [run_of(["word"] * 220, 120)]}).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    clients = []
    for _ in range(MAX_WAITING + 1):
        client = socket.create_connection(("127.0.0.1", served.port))
        client.sendall(head.encode() + body)
        clients.append(client)
    wait_for(lambda: served.state.pictures.asked == MAX_WAITING + 1)
    response, text = call(served, "POST", PATH, body)
    error = json.loads(text)["error"]
    assert response.status == 429 and error["code"] == "queue_full"
    assert response.headers["retry-after"] and str(MAX_WAITING + 1) in error["message"]
    prompt = {"prompt": "Tom " * 5000}  # long enough for the threads that all share
    assert call(served, "POST", "/tokenize", prompt)[0].status in (200, 400)
    for client in clients:
        client.close()
    wait_for(lambda: served.state.pictures.asked == 0)
    assert asked(served, {"runs": [run_of(["a"])]})[0] == 200
