"""Long texts, many ids, and tokenizers that fail: bounds before work, and others are answered."""

from __future__ import annotations

import http.client
import json
import threading
import time
from pathlib import Path

import pytest

from models.checkpoints.load import load_checkpoint
from tests.support.http import BODY, call, events, post
from tests.support.serving import make_engine, run_server, settings_of, write_tiny

MIB = 1 << 20
SMILE = "\N{GRINNING FACE}"
LONG = SMILE * (2 * MIB - 64)  # 8 MiB less a little
CHAT = "/v1/chat/completions"


def chat(text: str) -> dict:
    return {"messages": [{"role": "user", "content": text}]}


LONG_TEXTS = {
    "prompt": ("/v1/completions", {"prompt": LONG}, "prompt"),
    "prompts": ("/v1/completions", {"prompt": [LONG[: 2 * MIB // 100]] * 90}, "prompt"),
    "suffix": ("/v1/completions", {"prompt": "a", "suffix": LONG}, "suffix"),
    "stop": ("/v1/completions", {"prompt": "a", "stop": LONG}, "stop"),
    "chat": (CHAT, chat(LONG), "messages"),
    "chat of masks": (CHAT, chat("<|mdm_mask|>" * (8 * MIB // 12 - 99)), "messages"),
    "score": ("/v1/score", {"text": LONG}, "text"),
    "score behind": ("/v1/score", {"text": "a", "prompt": LONG}, "prompt"),
    "tokenize": ("/tokenize", {"prompt": LONG, "return_token_strs": True}, "prompt"),
    "tokenize chat": ("/tokenize", chat("<s>" * (8 * MIB // 3 - 99)), "messages"),
    "trajectory": ("/v1/diffusion/trajectories", {"prompt": LONG}, "prompt"),
}


class Watch(threading.Thread):
    """Asks /health again and again; ``worst`` is the longest wait for an answer, in seconds."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.port, self.worst, self.over = port, 0.0, threading.Event()

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        while not self.over.is_set():
            began = time.perf_counter()
            connection.request("GET", "/health")
            connection.getresponse().read()
            self.worst = max(self.worst, time.perf_counter() - began)
            time.sleep(0.002)
        connection.close()


def watched(served, path: str, body: dict) -> tuple[int, dict, float]:
    watch = Watch(served.port)
    watch.start()
    try:
        response, text = call(served, "POST", path, json.dumps(body, ensure_ascii=False).encode())
    finally:
        watch.over.set()
        watch.join()
    return response.status, json.loads(text), watch.worst


@pytest.mark.parametrize("name", LONG_TEXTS)
def test_a_text_of_mebibytes_is_refused_by_name_and_nobody_waits(chatty, name):
    path, body, field = LONG_TEXTS[name]
    found = []
    for _ in range(4):  # a busy machine may be late once
        status, answer, worst = watched(chatty, path, body)
        assert status == 400 and answer["error"]["param"] == field
        assert answer["error"]["code"] in ("limit_exceeded", "context_length_exceeded")
        assert any(digit in answer["error"]["message"] for digit in "123456789")
        found.append(worst)
        if worst < 0.25:
            break
    assert min(found) < 0.25


@pytest.mark.parametrize("unit", [SMILE, "<s>", "<|mdm_mask|>", " ", "the king "])
def test_the_longest_text_that_is_read_keeps_nobody_waiting(served, unit):
    text = unit * ((1 << 19) // len(unit.encode()))
    found = []
    for _ in range(4):
        status, answer, worst = watched(served, "/tokenize", {"prompt": text})
        assert status == 200 and answer["count"] == len(answer["tokens"]) > 100_000
        found.append(worst)
        if worst < 0.25:
            break
    assert min(found) < 0.25
    _, answer = post_to(served, "/tokenize", {"prompt": text + unit})
    assert f"is {len((text + unit).encode())}; the limit is 524288" in answer["error"]["message"]


def post_to(served, path: str, body: dict) -> tuple[int, dict]:
    response, text = call(served, "POST", path, json.dumps(body).encode())
    return response.status, json.loads(text)


def test_ids_are_counted_before_they_are_looked_at(served, tiny):
    many = [5] * (tiny.info.max_length + 1)
    status, answer = post(served, prompt=many, echo=True, max_tokens=0)
    assert status == 400 and answer["error"]["code"] == "context_length_exceeded"
    for field in ("text", "prompt"):
        status, answer = post_to(served, "/v1/score", {"text": "a", field: many})
        assert status == 400 and answer["error"]["param"] == field
        assert f"is {len(many)}; the limit is {len(many) - 1}" in answer["error"]["message"]
    status, answer = post_to(served, "/detokenize", {"tokens": [5] * 550_000})
    assert status == 400 and "550000; the limit is 524288" in answer["error"]["message"]
    longest = max(range(4000), key=lambda id_: len(tiny.tokenizer.data(id_)))
    body = {"tokens": [longest] * 500_000}
    status, answer = post_to(served, "/detokenize", body)
    assert status == 400 and "the limit is 2097152" in answer["error"]["message"]
    body = {"prompt": SMILE * 20_000, "return_token_strs": True}
    status, answer = post_to(served, "/tokenize", body)
    assert status == 400 and "80002; the limit is 65536" in answer["error"]["message"]


# Tokenizers that fail -----------------------------------------------------------------------------


def failing(folder: Path, **parts) -> Path:
    file = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(file | parts))
    return folder


@pytest.fixture(scope="module")
def slow_reader(tmp_path_factory):
    """Its library panics over long runs of one letter."""
    pattern = {"Regex": "(a+)+$"}
    slow = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    folder = write_tiny(tmp_path_factory.mktemp("reader") / "tiny")
    loaded = load_checkpoint(failing(folder, pre_tokenizer=slow))
    yield from run_server(make_engine(loaded), settings_of())


@pytest.fixture(scope="module")
def slow_writer(tmp_path_factory):
    """The same where ids are written."""
    slow = {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}
    steps = [{"type": "ByteFallback"}, {"type": "Fuse"}, slow]
    folder = write_tiny(tmp_path_factory.mktemp("writer") / "tiny")
    loaded = load_checkpoint(failing(folder, decoder={"type": "Sequence", "decoders": steps}))
    yield from run_server(make_engine(loaded), settings_of())


@pytest.mark.parametrize("size", [40, 6000])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/score", "/tokenize"])
def test_a_text_that_the_library_panics_over_fails_its_own_request(slow_reader, path, size):
    text = "a" * size + "b"
    body = {"text": text} if "score" in path else {"prompt": text}
    if size > 4000 and path != "/tokenize":
        return  # does not fit the canvas
    status, answer = post_to(slow_reader, path, body)
    assert status == 400 and answer["error"]["code"] == "tokenizer"
    assert "retry-limit" in answer["error"]["message"]
    assert post(slow_reader, **{**BODY, "prompt": "b"})[0] == 200


def test_ids_that_the_library_panics_over_end_their_own_request(slow_writer, tiny):
    read, size = tiny.tokenizer, tiny.tokenizer.vocab_size
    a, b = (next(i for i in range(260, size) if read.token(i).text == x) for x in "ab")
    ids = [a] * 40 + [b]
    status, answer = post_to(slow_writer, "/detokenize", {"tokens": ids})
    assert status == 400 and answer["error"]["code"] == "tokenizer"
    body = {**BODY, "prompt": ids}
    status, answer = post(slow_writer, **body)
    assert status == 400 and answer["error"]["code"] == "tokenizer"
    response, text = call(slow_writer, "POST", "/v1/completions", {**body, "stream": True})
    *_, last, end = events(text.decode())
    assert response.status == 200 and end == "[DONE]"
    assert json.loads(last)["error"]["code"] == "tokenizer"
    assert post(slow_writer, **{**BODY, "prompt": [9]})[0] == 200
