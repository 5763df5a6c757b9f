"""Answers and events of routes are of the types from which the OpenAPI document is generated."""

from __future__ import annotations

import json
from importlib import import_module
from inspect import getmembers, isclass
from pkgutil import iter_modules

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from models.bundled import BUNDLED
from models.checkpoints.load import load_checkpoint
from server.api.schemas import responses
from server.api.schemas.responses.health import Health, Version
from server.api.schemas.responses.images import Images, ImageStreamEvent
from server.api.schemas.responses.models import Models, Tokens
from server.api.schemas.responses.score import Score
from server.api.schemas.responses.trajectories import Deleted, Trajectory
from server.http.errors import Error
from tests.server.conftest import make_engine, run_server, settings_of
from tests.support.http import BODY, call, events

RUNS = "/v1/diffusion/trajectories"
DOCUMENT = {"Accept": "application/json", "Content-Type": "application/json"}
TEXTS = [{}, {"logprobs": 3, "n": 2}, {"sampler": "topk", "block_length": 5, "steps": 8}]
TEXTS += [{"echo": True, "logprobs": 1, "samples": 4}, {"latency_budget_ms": 9e5}]


@pytest.fixture(scope="module")
def drawing():
    yield from run_server(make_engine(load_checkpoint(BUNDLED / "digits")), settings_of())


def check(kind, text: bytes | str) -> dict:
    """An answer, which is exactly of its type: no field more, none less."""
    adapter = TypeAdapter(kind)
    adapter.validate_json(text, strict=True)
    answer = json.loads(text)
    with pytest.raises(ValidationError):
        adapter.validate_python({**answer, "more": 1})
    return answer


def test_no_response_is_declared_twice():
    """Types of answers are typed dicts, which are built as such; no model stands beside them."""
    found = 0
    for module in iter_modules(responses.__path__, f"{responses.__name__}."):
        for name, kind in getmembers(import_module(module.name), isclass):
            assert not issubclass(kind, BaseModel) or kind is BaseModel, name
            found += hasattr(kind, "__required_keys__")
    assert found > 30


@pytest.mark.parametrize("more", TEXTS)
def test_trajectories_of_text_are_of_their_type(served, more):
    response, text = call(served, "POST", RUNS, {**BODY, **more}, headers=DOCUMENT)
    assert response.status == 200
    told = check(Trajectory, text)["events"]
    assert told[-1]["event"] == "diffusion.completed"


def test_failed_and_deleted_trajectories_are_of_their_type(served):
    _, text = call(served, "POST", RUNS, BODY, headers=DOCUMENT)
    path = f"{RUNS}/{json.loads(text)['id']}"
    assert check(Deleted, call(served, "DELETE", path)[1])["status"] == "deleted"
    check(Error, call(served, "DELETE", path)[1])


def test_images_are_of_their_type(drawing):
    path, body = "/v1/images/generations", {"prompt": "7", "steps": 4, "seed": 1}
    for more in ({}, {"n": 2, "output_format": "webp", "latency_budget_ms": 9e5}):
        check(Images, call(drawing, "POST", path, {**body, **more})[1])
    _, text = call(drawing, "POST", path, {**body, "stream": True, "partial_images": 2})
    kinds = [check(ImageStreamEvent, data)["type"] for data in events(text.decode())]
    partial, completed = "image_generation.partial_image", "image_generation.completed"
    assert kinds == [partial, partial, completed]
    _, text = call(drawing, "POST", RUNS, {"prompt": "7", "steps": 4}, headers=DOCUMENT)
    check(Trajectory, text)


def test_other_answers_are_of_their_type(served):
    check(Models, call(served, "GET", "/v1/models")[1])
    check(Health, call(served, "GET", "/health")[1])
    check(Version, call(served, "GET", "/version")[1])
    check(Tokens, call(served, "POST", "/tokenize", {"prompt": "Tom"})[1])
    check(Score, call(served, "POST", "/v1/score", {"text": " had", "samples": 2})[1])
    check(Error, call(served, "POST", "/v1/completions", {"prompt": 1.5})[1])
