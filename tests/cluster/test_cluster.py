"""Two real replicas on this machine: what a client sees of them, alive, dying and replaced. One
cluster serves all tests, in order.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import openai
import pytest

from loadtest import sse
from tests.cluster.conftest import KEY, START_SECONDS, Cluster, replica_processes, wait_until
from tests.support.prometheus import EXPRESSIONS, KINDS, asked, scraped

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

BODY = {"prompt": "Once upon a time", "max_tokens": 24, "steps": 12, "seed": 1}
ENDLESS = {**BODY, "sampler": "ancestral", "max_tokens": 240, "steps": 4096, "stream": True}
"""A minute at least: every step has its share of the masks, however few."""
TRAJECTORIES = "/v1/diffusion/trajectories"


def events(text: str) -> list[dict[str, Any]]:
    """Named events of a trajectory."""
    named = [event for event in sse.decode(text) if event.name != "message"]
    return [{"id": e.id, "event": e.name, "data": json.loads(e.data)} for e in named]


class Stream:
    """A stream of a completion with its steps, read on a thread."""

    def __init__(self, cluster: Cluster, seed: int, **more: Any) -> None:
        self.chunks: list[Any] = []
        self.broken: Exception | None = None
        body = {**BODY, "seed": seed, "stream": True, "trajectory": "delta", **more}
        self._thread = threading.Thread(target=self._read, args=(cluster, body))
        self._thread.start()

    def _read(self, cluster: Cluster, body: dict[str, Any]) -> None:
        try:
            with cluster.request("/v1/completions", body) as response:
                decoder = sse.Decoder()
                for line in response:
                    for data in (event.data for event in decoder.feed(line)):
                        self.chunks.append(data if data == "[DONE]" else json.loads(data))
        except Exception as error:
            self.broken = error

    def join(self) -> Stream:
        self._thread.join()
        return self

    @property
    def replica(self) -> str:
        """Its mark; empty before the first chunk."""
        id_ = self.chunks[0].get("id", "") if self.chunks else ""
        return id_[len("cmpl-") + 4 :][:8]

    @property
    def errors(self) -> list[dict[str, Any]]:
        return [c["error"] for c in self.chunks if isinstance(c, dict) and "error" in c]

    @property
    def done(self) -> bool:
        return self.broken is None and self.chunks[-1:] == ["[DONE]"] and not self.errors

    @property
    def told(self) -> list[Any]:
        """All chunks but for what names the request."""
        return [
            c if isinstance(c, str) else {k: v for k, v in c.items() if k not in ("id", "created")}
            for c in self.chunks
        ]


def test_the_openai_client_works_unchanged(cluster):
    client = openai.OpenAI(base_url=f"{cluster.url}/v1", api_key=KEY)
    assert [model.id for model in client.models.list()] == ["stories"]
    asked = {"model": "stories", "prompt": "Once upon a time", "max_tokens": 16, "seed": 3}
    whole = client.completions.create(**asked, extra_body={"steps": 6})
    parts = client.completions.create(**asked, stream=True, extra_body={"steps": 6})
    assert "".join(part.choices[0].text for part in parts if part.choices) == whole.choices[0].text
    said = [{"role": "user", "content": "Tell me a story."}]
    chat = client.chat.completions.create(model="stories", messages=said, max_tokens=8)  # type: ignore[arg-type]
    assert chat.choices[0].message.content is not None
    with pytest.raises(openai.BadRequestError, match="steps"):
        client.completions.create(**asked, extra_body={"steps": 0})
    with pytest.raises(openai.NotFoundError):
        client.completions.create(**{**asked, "model": "nobody"})
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{cluster.url}/v1", api_key="sk-wrong").models.list()


def test_both_replicas_give_the_same_text_and_keep_their_own(cluster):
    """Any request may reach any replica; what is kept is found again wherever it is."""
    assert len(cluster.replicas()) == 2
    kept: dict[str, str] = {}
    deadline = time.monotonic() + 60
    while len(kept) < 2:
        assert time.monotonic() < deadline
        with ThreadPoolExecutor(4) as pool:
            for text in pool.map(lambda _: cluster.read(TRAJECTORIES, BODY), range(4)):
                id_ = events(text)[0]["data"]["id"]
                kept.setdefault(id_[len("traj-") + 4 :][:8], text)
    texts = [events(text)[-1]["data"]["choices"] for text in kept.values()]
    assert texts[0] == texts[1]
    for text in kept.values():
        told = events(text)
        id_ = told[0]["data"]["id"]
        for _ in range(4):
            assert events(cluster.read(f"{TRAJECTORIES}/{id_}")) == told
            rest = cluster.read(f"{TRAJECTORIES}/{id_}", **{"Last-Event-ID": f"{id_}:2"})
            assert events(rest) == told[3:]
    with pytest.raises(urllib.error.HTTPError, match="404"):
        cluster.read(f"{TRAJECTORIES}/traj-{'0' * 36}")


def test_a_client_that_goes_away_frees_its_place(cluster):
    response = cluster.request("/v1/completions", ENDLESS)
    running = "xdlm_requests_running{"

    def busy() -> float:
        lines = cluster.read("/metrics").splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(running))

    wait_until(lambda: busy() == 1, 30)
    response.close()
    wait_until(lambda: busy() == 0, 30)


def test_a_full_cluster_refuses(cluster):
    """More is taken than one replica holds, and the rest is told so at once."""

    def ask(seed: int) -> tuple[int, str | None]:
        try:
            cluster.read("/v1/completions", {**BODY, "steps": 24, "seed": seed})
            return 200, None
        except urllib.error.HTTPError as error:
            with error:
                body = json.loads(error.read())
            assert body["error"]["code"] == "queue_full"
            return error.code, error.headers["Retry-After"]

    with ThreadPoolExecutor(80) as pool:
        answers = list(pool.map(ask, range(80)))
    refused = [after for status, after in answers if status == 429]
    assert len(answers) - len(refused) > 24  # 16 waiting and 8 running
    assert refused and all(after and int(after) >= 1 for after in refused)


def test_scale_down_and_rolling_update_lose_nothing(cluster):
    before = set(replica_processes())
    long = [Stream(cluster, seed, steps=60) for seed in range(8)]
    wait_until(lambda: all(len(stream.chunks) > 2 for stream in long), 60)
    cluster.deploy("stories", "--replicas", "1")
    assert all(stream.join().done for stream in long)
    wait_until(lambda: len(replica_processes()) == 1, 60)
    assert len({stream.replica for stream in long}) == 2

    ended = threading.Event()
    answers: list[Stream] = []

    def ask_on_and_on() -> None:
        while not ended.is_set():
            answers.append(Stream(cluster, len(answers)).join())

    asking = threading.Thread(target=ask_on_and_on)
    asking.start()
    cluster.deploy("stories", "--replicas", "2", XDLM_MAX_STEPS="100")
    wait_until(lambda: len(cluster.replicas()) == 2, START_SECONDS)
    wait_until(lambda: len(replica_processes()) == 2, 60)
    ended.set()
    asking.join()
    assert answers and all(answer.done for answer in answers)
    assert not set(replica_processes()) & before
    with pytest.raises(urllib.error.HTTPError, match="400"):
        cluster.read("/v1/completions", {**BODY, "steps": 101})


def test_a_replica_that_is_killed_costs_nobody_else_anything(cluster):
    assert len(cluster.replicas()) == 2
    calm = [stream.join() for stream in [Stream(cluster, seed, steps=60) for seed in range(20)]]
    assert all(stream.done for stream in calm)

    processes = replica_processes()
    streams = [Stream(cluster, seed, steps=60) for seed in range(20)]
    wait_until(lambda: len({s.replica for s in streams if len(s.chunks) > 2}) == 2, 60)
    os.kill(processes[0], signal.SIGKILL)  # some run, the others wait in the engines
    killed = time.monotonic()
    for stream in streams:
        stream.join()
    lost = [stream for stream in streams if not stream.done]
    dead = {stream.replica for stream in lost} - {""}
    assert lost and len(lost) < len(streams) and len(dead) == 1
    for stream, before in zip(streams, calm, strict=True):
        assert stream.broken is None  # the response itself ends well
        if stream in lost:
            assert [error["code"] for error in stream.errors] == ["replica_lost"]
            assert "error" in stream.chunks[-1]
        else:
            assert texts(stream) == texts(before)

    wait_until(lambda: len(cluster.replicas()) == 2 and len(replica_processes()) == 2, 120)
    took = time.monotonic() - killed
    print(f"whole again {took:.1f} s after the kill")
    assert took <= 30
    again = [stream.join() for stream in [Stream(cluster, seed) for seed in range(8)]]
    assert all(stream.done for stream in again)


def test_a_replica_may_be_several_ranks(cluster):
    """Two processes share the model; a replica that loses one is started anew."""
    body = {**BODY, "model": "stories", "temperature": 0}
    whole = json.loads(cluster.read("/v1/completions", body))["choices"]
    cluster.deploy("stories", "--replicas", "1", "--tensor-parallel", "2")
    wait_until(lambda: len(cluster.replicas()) == len(replica_processes()) == 1, 60)
    (leader,) = replica_processes()
    assert json.loads(cluster.read("/v1/completions", body))["choices"] == whole
    (follower,) = followers(leader)
    os.kill(follower, signal.SIGKILL)
    wait_until(lambda: leader not in replica_processes(), 60)
    with pytest.raises(urllib.error.HTTPError, match="503"):
        cluster.read("/ready")
    wait_until(lambda: len(cluster.replicas()) == len(replica_processes()) == 1, 60)
    assert json.loads(cluster.read("/v1/completions", body))["choices"] == whole


def followers(leader: int) -> list[int]:
    """Other ranks among a process's children, whichever of its threads started them."""
    tasks = Path(f"/proc/{leader}/task").glob("*/children")
    children = [child for task in tasks for child in task.read_text().split()]
    return [int(c) for c in children if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]


def test_several_checkpoints_are_several_deployments_and_each_grows_by_its_own_work(cluster):
    """With two seconds of work as the objective, more than that brings a second replica of the
    model that is asked, and none of the other.
    """
    growing = ("--replicas", "1", "--max-replicas", "2")
    cluster.deploy("stories", "digits", *growing, XDLM_TARGET_SECONDS="2")
    wait_until(lambda: len(replica_processes()) == len(replica_processes("digits")) == 1, 60)
    listed = json.loads(cluster.read("/v1/models"))
    assert {model["id"] for model in listed["data"]} == {"stories", "digits"}
    image = {"model": "digits", "prompt": "7", "steps": 4, "seed": 1}
    (picture,) = json.loads(cluster.read("/v1/images/generations", image))["data"]
    assert picture["b64_json"]
    assert cluster.read("/v1/completions", BODY) and cluster.read("/v1/models/digits")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        cluster.read("/v1/completions", {**BODY, "model": "nobody"})

    with ExitStack() as open_streams:
        for _ in range(4):
            open_streams.enter_context(cluster.request("/v1/completions", ENDLESS))
        took = wait_until(lambda: len(replica_processes()) == 2, 60)
        print(f"a second replica {took:.1f} s after the work")
    assert len(replica_processes("digits")) == 1


@pytest.mark.skipif(not shutil.which("prometheus"), reason="needs Prometheus")
def test_every_panel_of_the_dashboard_shows_the_cluster(cluster, tmp_path):
    for route, body in KINDS:
        try:
            cluster.read(route, body)
        except urllib.error.HTTPError as error:
            assert error.code == 400, route
    with scraped(cluster.port, tmp_path, KEY) as prometheus:
        for name, (text, shown) in EXPRESSIONS.items():
            assert not shown or asked(prometheus, text), f"{name}: {text}"
        (replicas,) = asked(prometheus, "count(count by (replica) (xdlm_requests_running))")
    assert int(replicas["value"][1]) == len(cluster.replicas())


def texts(stream: Stream) -> list[Any]:
    """Times of the writes, without the measurements."""
    return [
        c if isinstance(c, str) else (c["choices"], c.get("diffusion", {}).get("changes"))
        for c in stream.told
    ]
