"""The process itself over HTTP: recorded, followed, taken up again, replayed."""

from __future__ import annotations

import json
import time

import pytest
import torch

from models.checkpoints.load import load_checkpoint
from models.families.llada import LLaDA
from sampler import make_params
from server.api.jobs.recorder import SettledBlocks, stretches
from server.engine.events import GenerationRequest
from tests.support.effort import count
from tests.support.http import BODY, call, post, wait_for
from tests.support.serving import make_engine, run_server, settings_of
from tests.support.trajectory_client import (
    MASK,
    PATH,
    Follower,
    record_of,
    records,
    replayed,
    steps_of,
)

BLOCKS = {"sampler": "topk", "mixing_ratio": 0.3, "block_length": 10, "refine_scope": "block"}
LONG = {**BODY, "steps": 4000}


@pytest.fixture
def hasty(tiny):
    """A server that neither waits nor keeps for long, with room for one run of a megabyte."""
    limits = {"resume_seconds": 0.5, "trajectory_store_mb": 1, "trajectory_store_seconds": 1.0}
    server = run_server(make_engine(tiny), settings_of(ping_seconds=1, **limits))
    yield next(server)
    next(server, None)


def idle(served) -> bool:
    return served.engine.scheduler.running + served.engine.scheduler.waiting == 0


def error_of(served, method, path, body=None, headers=None) -> tuple[int, dict]:
    headers = {"Content-Type": "application/json", **(headers or {})}
    response, text = call(served, method, path, body, headers)
    error = json.loads(text)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return response.status, error


def test_a_run_is_told_from_its_creation_to_its_end(served, tiny):
    body = {**BODY, "n": 1, "logprobs": 1, "echo": True, "stop": ["zzz"]}
    told = records(served, body, X_Request_Id="mine-7")
    names = [r["event"] for r in told]
    assert names == [
        "diffusion.created",
        *["diffusion.step"] * 8,
        "diffusion.block",
        "diffusion.completed",
    ]
    created, *_, block, completed = [r["data"] for r in told]
    id_ = created["id"]
    assert id_.startswith("traj-") and len(id_) == 29
    assert [r["id"] for r in told] == [f"{id_}:{n}" for n in range(11)]
    assert created["model"] == "tiny" and created["seed"] == 11
    assert created["request_id"] == "mine-7"
    assert created["mask"] == {"id": MASK, "text": "<|mdm_mask|>"}
    (choice,) = created["choices"]
    assert choice == {"index": 0, "seed": 11, "positions": 35, "editable": [[5, 35]]}
    steps = steps_of(told)
    assert [s["step"] for s in steps] == [*range(7), 6] and steps[-1]["final"]
    elapsed = [s["elapsed_ms"] for s in steps]
    assert elapsed == sorted(elapsed) and 0 < elapsed[0] <= completed["elapsed_ms"] < 10_000
    assert block == {"choice": 0, "elapsed_ms": elapsed[-1], "block": 0, "step": 6}
    plain = post(served, **body)[1]
    ids = completed["choices"][0].pop("ids")
    assert replayed(steps) == ids
    assert completed["choices"] == plain["choices"]
    assert tiny.tokenizer.decode(ids[:5]).strip() == BODY["prompt"]
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert completed["usage"][name] == plain["usage"][name]
    assert completed["usage"]["diffusion"]["steps"] == 6


@pytest.mark.parametrize(
    "chosen",
    [{}, {**BLOCKS, "block_length": 64}, {"sampler": "threshold", "block_length": 50}],
)
def test_the_request_that_is_told_gives_the_same_run_again(served, chosen):
    asked = {"prompt": "Tom", "suffix": " the end.", "steps": 9, "n": 2, **chosen}
    first = records(served, asked)
    resolved = first[0]["data"]["request"]
    assert resolved["temperature"] == 0.3 and resolved["model"] == "tiny"
    assert resolved["max_tokens"] == 250 and resolved["seed"] == first[0]["data"]["seed"]
    again = records(served, resolved)
    assert again[0]["data"]["request"] == resolved
    assert again[-1]["data"]["choices"] == first[-1]["data"]["choices"]
    for choice in range(2):
        assert replayed(steps_of(again, choice)) == first[-1]["data"]["choices"][choice]["ids"]


@pytest.mark.parametrize(
    ("chosen", "settle"),
    [
        ({}, [(0, 2), (1, 4), (2, 6)]),
        ({"mixing_ratio": 0.0, "steps": 30}, [(0, 10), (1, 20), (2, 30)]),
    ],
)
def test_blocks_are_told_as_they_settle(served, chosen, settle):
    told = records(served, {**BODY, **BLOCKS, **chosen, "logits_eos_inf": True})
    blocks = [r["data"] for r in told if r["event"] == "diffusion.block"]
    assert [(b["block"], b["step"]) for b in blocks] == settle
    for block in blocks:
        late = [s for s in steps_of(told) if s["step"] > block["step"]]
        within = range(5 + 10 * block["block"], 15 + 10 * block["block"])
        assert not [c for s in late for c in s["changes"] if c["pos"] in within]


def test_blocks_count_written_positions():
    ids = [9] * 3 + [MASK] * 3 + [9] + [MASK]
    params = make_params(sampler="topk", block_length=2, steps=4)
    request = GenerationRequest.continuing(ids, 1, params, hole=MASK, suffix=[9])
    assert stretches(request.editable) == [(3, 6), (7, 9)]
    blocks = SettledBlocks(request)
    told = [blocks.more(settled) for settled in (0, 4, 5, 7, 8, 9, 10)]
    assert told == [[], [], [0], [], [1], [2], []]
    alone = GenerationRequest.continuing([9], 0, make_params())
    assert stretches(alone.editable) == [] and SettledBlocks(alone).more(1) == []


def test_several_choices_are_told_side_by_side(served):
    body = {**BODY, "prompt": ["Tom", "Once upon a time"], "n": 2, "steps": 40, "mixing_ratio": 0.4}
    told = records(served, body)
    created, completed = told[0]["data"], told[-1]["data"]
    assert created["request"]["prompt"] == body["prompt"]
    order = [r["data"]["choice"] for r in told if r["event"] == "diffusion.step"]
    assert sorted(order) == sorted([0, 1, 2, 3] * 42) and order != sorted(order)
    assert [c["index"] for c in completed["choices"]] == [0, 1, 2, 3]
    for choice in completed["choices"]:
        assert replayed(steps_of(told, choice["index"])) == choice.pop("ids")
    assert completed["choices"] == post(served, **body)[1]["choices"]


def test_all_forms_have_the_same_records(served):
    told = records(served, {**BODY, "n": 2}, Accept="*/*")
    path = f"{PATH}/{told[0]['data']['id']}"
    lines = Follower(served, "GET", path, Accept="application/x-ndjson")
    assert lines.response.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line) for line in lines.lines()] == told
    response, text = call(served, "GET", path, headers={"Accept": "application/json"})
    assert response.headers["content-type"] == "application/json"
    assert json.loads(text) == {"id": told[0]["data"]["id"], "events": told}
    last = {"Last-Event-ID": told[9]["id"]}
    rest = Follower(served, "GET", path, Accept="application/x-ndjson", **last)
    assert [json.loads(line) for line in rest.lines()] == told[10:]
    _, text = call(served, "GET", path, headers={"Accept": "application/json", **last})
    assert json.loads(text)["events"] == told[10:]
    for form in ("application/x-ndjson", "application/json"):
        fresh = Follower(served, body=BODY, Accept=form)
        assert fresh.status == 200
        found = fresh.read()
        whole = [json.loads(line) for line in found.splitlines()]
        events = whole if "ndjson" in form else whole[0]["events"]
        assert events[-1]["event"] == "diffusion.completed"


def test_a_finished_run_is_replayed_byte_for_byte(served):
    response, text = call(served, "POST", PATH, BODY)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-store"
    id_ = text.decode().split(":", 2)[1].strip()
    for _ in range(2):
        assert call(served, "GET", f"{PATH}/{id_}")[1] == text


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_broken_stream_is_taken_up_where_it_broke(served, method):
    body = {**BODY, "steps": count(200, 400)}
    first = Follower(served, body=body)
    frames = first.frames()
    seen = [next(frames) for _ in range(20)]
    first.hang_up()
    time.sleep(0.05)
    assert served.engine.scheduler.running == 1  # it goes on meanwhile
    id_ = json.loads(seen[0]["data"])["id"]
    path = f"{PATH}/{id_}" if method == "GET" else PATH
    second = Follower(served, method, path, body, Last_Event_ID=seen[-1]["id"])
    assert second.status == 200
    rest = list(second.frames())
    assert [f["id"] for f in seen + rest] == [f"{id_}:{n}" for n in range(len(seen + rest))]
    assert rest[-1]["event"] == "diffusion.completed"
    told = [record_of(f) for f in seen + rest]
    assert told == records(served, path=f"{PATH}/{id_}", method="GET")
    assert replayed(steps_of(told)) == told[-1]["data"]["choices"][0]["ids"]
    over = Follower(served, method, path, body, Last_Event_ID=rest[-1]["id"])
    assert over.status == 204 and over.read() == ""


def test_followers_have_their_own_pace(served):
    """One reads at once, one only when all is over; a third comes late. All read the same."""
    slow = Follower(served, body={**BODY, "steps": 200})
    first = next(slow.frames())
    path = f"{PATH}/{json.loads(first['data'])['id']}"
    quick = Follower(served, "GET", path)
    read = list(quick.frames())
    assert read[-1]["event"] == "diffusion.completed" and idle(served)
    assert [first, *slow.frames()] == read
    assert list(Follower(served, "GET", path).frames()) == read


def test_deleting_cancels_a_run_and_then_forgets_it(served):
    follower = Follower(served, body=LONG)
    frames = follower.frames()
    id_ = json.loads(next(frames)["data"])["id"]
    path = f"{PATH}/{id_}"
    wait_for(lambda: served.engine.scheduler.running == 1)
    began = time.monotonic()
    _, answer = call(served, "DELETE", path)
    assert json.loads(answer) == {
        "id": id_,
        "object": "diffusion.trajectory",
        "status": "cancelled",
    }
    *_, last = frames
    wait_for(lambda: idle(served))
    assert time.monotonic() - began < 0.5
    assert last["event"] == "diffusion.failed"
    assert json.loads(last["data"])["error"]["code"] == "cancelled"
    replay = records(served, path=path, method="GET")
    assert replay[-1] == record_of(last)
    assert [r["event"] for r in replay if r["event"] != "diffusion.step"] == [
        "diffusion.created",
        "diffusion.failed",
    ]
    _, answer = call(served, "DELETE", path)
    assert json.loads(answer)["status"] == "deleted"
    assert error_of(served, "GET", path)[0] == 404
    assert error_of(served, "DELETE", path)[0] == 404
    last_id = {"Last-Event-ID": replay[-1]["id"]}
    assert error_of(served, "POST", PATH, BODY, last_id)[0] == 404


@pytest.mark.parametrize("form", ["text/event-stream", "application/x-ndjson", "application/json"])
def test_a_run_that_nobody_comes_back_to_is_cancelled(hasty, form):
    follower = Follower(hasty, body=LONG, Accept=form)
    wait_for(lambda: hasty.engine.scheduler.running == 1)
    began = time.monotonic()
    follower.hang_up()
    wait_for(lambda: idle(hasty))
    assert 0.45 < time.monotonic() - began < 1.5


def test_coming_back_keeps_a_run(hasty):
    """Gone twice, each time for less than the wait, together for more."""
    follower = Follower(hasty, body=LONG)
    first = next(follower.frames())
    path = f"{PATH}/{json.loads(first['data'])['id']}"
    for _ in range(2):
        follower.hang_up()
        time.sleep(0.3)
        follower = Follower(hasty, "GET", path, Last_Event_ID=first["id"])
    assert hasty.engine.scheduler.running == 1
    call(hasty, "DELETE", path)
    *_, last = follower.frames()
    assert json.loads(last["data"])["error"]["code"] == "cancelled"


def test_finished_runs_are_kept_for_a_while(hasty):
    told = records(hasty, BODY)
    path = f"{PATH}/{told[0]['data']['id']}"
    assert records(hasty, path=path, method="GET") == told
    time.sleep(1.1)
    status, error = error_of(hasty, "GET", path)
    assert (status, error["code"]) == (404, "trajectory_not_found")


def test_a_run_that_outgrows_the_store_ends(hasty):
    told = records(hasty, {**LONG, "n": 40})
    assert told[-1]["event"] == "diffusion.failed"
    assert told[-1]["data"]["error"]["code"] == "too_large"
    wait_for(lambda: idle(hasty), 0.5)
    assert records(hasty, BODY)[-1]["event"] == "diffusion.completed"


def test_streams_are_kept_alive_by_comments(hasty):
    follower = Follower(hasty, body=LONG)
    lines = follower.lines()
    while not next(lines).startswith(": ping"):
        pass
    assert next(lines) == "\n" and next(lines).startswith("id: ")
    follower.hang_up()


def test_one_failed_choice_ends_the_run_once(tiny_folder):
    broken = load_checkpoint(tiny_folder)
    assert isinstance(broken.model, LLaDA)
    with torch.no_grad():  # only canvases that hold id 305 are hurt
        broken.model.get_parameter("model.transformer.wte.weight")[305] = torch.nan
    server = run_server(make_engine(broken), settings_of())
    served = next(server)
    ids = [[0, 306], [0, 305], [0, 305]]
    told = records(served, {**LONG, "prompt": ids, "mixing_ratio": 0.0, "top_p": 0.9})
    ends = [r for r in told if r["event"] in ("diffusion.completed", "diffusion.failed")]
    assert ends == told[-1:]
    data = ends[0]["data"]
    assert data["error"]["code"] == "not_finite" and data["error"]["type"] == "server_error"
    assert data["id"] == told[0]["data"]["id"]
    wait_for(lambda: idle(served), 0.5)
    next(server, None)


def test_stopping_the_engine_ends_runs_with_an_error(tiny):
    server = run_server(make_engine(tiny), settings_of())
    served = next(server)
    followers = [Follower(served, body=LONG) for _ in range(3)]
    wait_for(lambda: served.engine.scheduler.running == 3)
    served.engine.stop()
    for follower in followers:
        names = [f["event"] for f in follower.frames()]
        assert names[-1] == "diffusion.failed" and "diffusion.completed" not in names
        assert names.count("diffusion.failed") == 1
    assert error_of(served, "POST", PATH, BODY)[0] == 503
    next(server, None)


def test_a_full_queue_is_429_before_anything_is_recorded(tiny):
    server = run_server(make_engine(tiny, max_waiting=1, max_running=1), settings_of())
    served = next(server)
    first = Follower(served, body=LONG)
    wait_for(lambda: served.engine.scheduler.running == 1)
    second = Follower(served, body=LONG)
    assert error_of(served, "POST", PATH, BODY)[0] == 429
    for follower in (first, second):
        id_ = json.loads(next(follower.frames())["data"])["id"]
        call(served, "DELETE", f"{PATH}/{id_}")
        follower.hang_up()
    wait_for(lambda: idle(served))
    next(server, None)


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"steps": 0}, "steps", "between 1 and"),
        ({"prompt": []}, "prompt", "empty list"),
        ({"diffusing": True}, "diffusing", "not supported for trajectories"),
        ({"stop": ["\ud800"]}, "stop", "Unicode"),
        ({"prompt": "\ud800"}, "prompt", "Unicode"),
        ({"zzz": 1}, "zzz", "unknown field 'zzz'"),
    ],
)
def test_bad_values_are_named(served, change, param, words):
    status, error = error_of(served, "POST", PATH, {**BODY, **change})
    assert status == 400 and error["param"] == param and words in error["message"]


def test_what_the_stream_fields_say_changes_nothing(served):
    plain = records(served, BODY)[-1]["data"]["choices"]
    for more in (
        {"stream": False},
        {"stream": True, "trajectory": "delta", "stream_options": {"include_usage": True}},
        {"trajectory": "none", "user": "me"},
    ):
        assert records(served, BODY | more)[-1]["data"]["choices"] == plain


def test_what_cannot_be_found_or_sent_is_refused(served):
    told = records(served, BODY)
    id_ = told[0]["data"]["id"]
    for unknown in ("traj-" + "0" * 24, "x", id_.upper()):
        assert error_of(served, "GET", f"{PATH}/{unknown}")[0] == 404
        assert error_of(served, "DELETE", f"{PATH}/{unknown}")[0] == 404
    for accept in ("text/html", "application/json;q=0", "image/*, text/plain"):
        for method, path in (("POST", PATH), ("GET", f"{PATH}/{id_}")):
            body = BODY if method == "POST" else None
            status, error = error_of(served, method, path, body, {"Accept": accept})
            assert (status, error["code"]) == (406, "not_acceptable")
    other = f"traj-{'0' * 24}:1"
    for bad in ("7", f"{id_}:", f"{id_}:-1", f"{id_}:99", f"{id_}:1x", other):
        status, error = error_of(served, "GET", f"{PATH}/{id_}", None, {"Last-Event-ID": bad})
        assert status == 400 and error["param"] == "Last-Event-ID"
        status, error = error_of(served, "POST", PATH, BODY, {"Last-Event-ID": bad})
        assert status == (404 if bad == other else 400)
    assert records(served, path=f"{PATH}/{id_}", method="GET", Last_Event_ID="") == told
