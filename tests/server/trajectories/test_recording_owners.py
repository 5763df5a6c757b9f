"""Owners of recordings: only the key that made one can read it; others get 404."""

from __future__ import annotations

import json

import pytest

from server.api.app import create_app
from server.cluster.messages import ForwardedRequest, answered
from server.http.api_keys import Keys
from tests.support.http import BODY, call
from tests.support.serving import make_engine, run_server, settings_of
from tests.support.trajectory_client import PATH, Follower, records

OURS, THEIRS = "sk-ours-0123456789", "sk-theirs-0123456789"
LONG = {**BODY, "steps": 4000}


@pytest.fixture(scope="module")
def keyed(tiny):
    keys = Keys.of([OURS, THEIRS])
    yield from run_server(make_engine(tiny), settings_of(api_keys=keys))


def ask(served, key, method, path, body=None, **headers):
    told = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    told |= {name.replace("_", "-"): value for name, value in headers.items()}
    response, text = call(served, method, path, body, told)
    return response.status, text


def routes(id_: str):
    """Every way to ask for a recording."""
    yield "GET", f"{PATH}/{id_}", {}
    yield "GET", f"{PATH}/{id_}", {"Accept": "application/json"}
    yield "GET", f"{PATH}/{id_}", {"Accept": "application/x-ndjson"}
    yield "GET", f"{PATH}/{id_}", {"Last_Event_ID": f"{id_}:0"}
    yield "GET", f"{PATH}/{id_}", {"Last_Event_ID": f"{id_}:99999"}
    yield "GET", f"{PATH}/{id_}", {"Last_Event_ID": f"traj-{'1' * 24}:0"}
    yield "POST", PATH, {"Last_Event_ID": f"{id_}:0"}
    yield "POST", PATH, {"Last_Event_ID": f"{id_}:99999"}
    yield "DELETE", f"{PATH}/{id_}", {}


def test_a_recording_of_another_key_is_answered_like_one_that_is_not_there(keyed):
    told = records(keyed, BODY, Authorization=f"Bearer {OURS}")
    id_ = told[0]["data"]["id"]
    unknown = f"traj-{'0' * 24}"
    for mine, none in zip(routes(id_), routes(unknown), strict=True):
        (method, path, headers), (_, nowhere, others) = mine, none
        body = BODY if method == "POST" else None
        found = ask(keyed, THEIRS, method, path, body, **headers)
        assert found[0] == 404, mine
        assert found == ask(keyed, THEIRS, method, nowhere, body, **others), mine
    assert records(keyed, None, f"{PATH}/{id_}", "GET", Authorization=f"Bearer {OURS}") == told
    assert ask(keyed, OURS, "DELETE", f"{PATH}/{id_}")[0] == 200


def test_a_run_under_way_is_not_cancelled_by_another_key(keyed):
    follower = Follower(keyed, body=LONG, Authorization=f"Bearer {OURS}")
    id_ = json.loads(next(follower.frames())["data"])["id"]
    assert ask(keyed, THEIRS, "DELETE", f"{PATH}/{id_}")[0] == 404
    assert ask(keyed, THEIRS, "GET", f"{PATH}/{id_}")[0] == 404
    assert next(follower.frames())["event"] == "diffusion.step"
    status, text = ask(keyed, OURS, "DELETE", f"{PATH}/{id_}")
    assert status == 200 and json.loads(text)["status"] == "cancelled"
    follower.hang_up()


def test_a_key_written_in_another_way_is_the_same_key(keyed):
    id_ = records(keyed, BODY, Authorization=f"Bearer {OURS}")[0]["data"]["id"]
    for way in (f"bearer {OURS}", f"BEARER   {OURS}", f"Bearer {OURS} "):
        told = {"Authorization": way}
        assert call(keyed, "GET", f"{PATH}/{id_}", None, told)[0].status == 200


def test_without_keys_a_recording_is_everybodys(served):
    told = records(served, BODY, Authorization="Bearer anything")
    path = f"{PATH}/{told[0]['data']['id']}"
    assert records(served, None, path, "GET") == told
    assert records(served, None, path, "GET", Authorization="Bearer other") == told


async def test_a_replica_of_a_cluster_binds_recordings_to_keys_itself(tiny):
    """The front passes the header on; its word is not taken for the key."""
    settings = settings_of(api_keys=Keys.of([OURS, THEIRS]))
    app = create_app([make_engine(tiny)], settings, "0123456789ab")

    async def asked(key: str, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        headers = [
            (b"host", b"127.0.0.1"),
            (b"content-type", b"application/json"),
            (b"authorization", f"Bearer {key}".encode()),
        ]
        forwarded = ForwardedRequest(method, path, b"", headers, body)
        start, *parts = [part async for part in answered(app, forwarded)]
        return start[0], b"".join(parts)  # type: ignore[arg-type]

    async with app.router.lifespan_context(app):
        status, text = await asked(OURS, "POST", PATH, json.dumps(BODY).encode())
        assert status == 200
        id_ = text.decode().split(":", 2)[1].strip()
        assert (await asked(THEIRS, "GET", f"{PATH}/{id_}"))[0] == 404
        assert (await asked(THEIRS, "DELETE", f"{PATH}/{id_}"))[0] == 404
        assert (await asked(OURS, "GET", f"{PATH}/{id_}")) == (200, text)
