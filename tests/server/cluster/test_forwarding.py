"""The cluster's ingress, where no replica is needed."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing

import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.api.app import create_app
from server.cluster import messages
from server.cluster.messages import ForwardedRequest, answered
from server.cluster.metrics import merged
from server.cluster.settings import ClusterSettings
from server.config import ConfigError
from server.engine.metrics import Metrics
from tests.support.serving import make_engine, settings_of

JSON = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]


def asked(**body) -> ForwardedRequest:
    given = {"prompt": "Once upon a time", "max_tokens": 16, "steps": 4, "seed": 1, **body}
    return ForwardedRequest("POST", "/v1/completions", b"", JSON, json.dumps(given).encode())


@pytest.fixture
async def app(tiny):
    app = create_app([make_engine(tiny)], settings_of(), "0123456789ab")
    async with app.router.lifespan_context(app):
        yield app


async def test_an_application_answers_without_a_socket(app):
    start, *body = [part async for part in answered(app, asked())]
    assert start[0] == 200 and dict(start[1])[b"content-type"] == b"application/json"  # type: ignore[arg-type]
    answer = json.loads(b"".join(body))  # type: ignore[arg-type]
    assert answer["id"].startswith("cmpl-0123456789ab")
    parts = [part async for part in answered(app, asked(stream=True))]
    assert len(parts) > 3 and b"[DONE]" in parts[-1]
    trajectory = ForwardedRequest("POST", "/v1/diffusion/trajectories", b"", JSON, asked().body)
    text = b"".join([p async for p in answered(app, trajectory) if isinstance(p, bytes)]).decode()
    found = messages.TRAJECTORY.search(text)
    assert found and found.groups() == ("0123", "456789ab")


async def test_closing_an_answer_frees_the_slot(app):
    scheduler = app.state.xdlm.engine.scheduler
    async with aclosing(answered(app, asked(steps=4000, stream=True))) as parts:
        await anext(parts)
        async with asyncio.timeout(30):
            while not scheduler.running:
                await asyncio.sleep(0.01)
    async with asyncio.timeout(30):
        while scheduler.running:
            await asyncio.sleep(0.01)


def test_metrics_of_all_replicas_are_one_text():
    some, other = Metrics(), Metrics()
    some.failed("queue_full")
    text = merged([("aa", some.render()), ("bb", other.render())]).decode()
    families = {f.name: f for f in text_string_to_metric_families(text)}
    assert text.count("# TYPE xdlm_step_seconds histogram") == 1
    told = {
        s.labels["replica"]: s.value
        for s in families["xdlm_request_failure"].samples
        if s.name == "xdlm_request_failure_total" and s.labels["code"] == "queue_full"
    }
    assert told == {"aa": 1.0, "bb": 0.0}
    alone = {f.name for f in text_string_to_metric_families(some.render().decode())}
    assert alone == set(families)


def test_settings_of_a_cluster_are_those_of_a_server_and_more():
    settings = ClusterSettings.read({"replicas": 3, "max_waiting": 5})
    assert (settings.replicas, settings.max_waiting) == (3, 5)
    with pytest.raises(ConfigError, match="replicas"):
        ClusterSettings.read({"replicas": 0})
    ranks = {"device": "cuda", "tensor_parallel": 2}
    with pytest.raises(ConfigError, match="replica_gpus: must be 2"):
        ClusterSettings.read(ranks)
    assert ClusterSettings.read({**ranks, "replica_gpus": 2}).replica_gpus == 2
    assert ClusterSettings.read({"tensor_parallel": 2}).replica_gpus == 0
