"""Row 26 of the faults: a model's name is looked up among those that are served, and never on
disk.
"""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.faults import audited
from tests.support.http import BODY, call
from tests.support.processes import Process
from tests.support.serving import write_tiny

NAMES = [
    *("../tiny", "..", ".", "/", "/etc/passwd", "tiny/", "tiny/.", "./tiny", "tiny/../tiny"),
    *("..%2ftiny", "%2e%2e/tiny", "%2e%2e%2f", "..\\tiny", "tiny\0", "tiny%00", "tiny\n", " tiny"),
    *("TINY", "tiny\u200b", "ｔｉｎｙ", "tiny\u0301", "\u202eynit", "con", "~", "~root", "$HOME"),
    *("file:///etc/passwd", "http://127.0.0.1/x", "stories", "digits", "a" * 5000, "link"),
    *("tiny:../x", "tiny@latest", "lora/../../x", "{{7*7}}", "%s%s%s", "';--"),
]
PLAIN = {"prompt": "Tom"}
ROUTES = {
    "/v1/completions": BODY,
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}]},
    "/v1/responses": {"input": "x"},
    "/v1/messages": {"messages": [{"role": "user", "content": "x"}]},
    "/v1/decisions": {
        "input": "x",
        "questions": [{"type": "predicate", "instructions": "x"}],
    },
    "/v1/images/generations": PLAIN,
    "/v1/diffusion/trajectories": BODY,
    "/v1/score": {"text": "Tom"},
    "/tokenize": PLAIN,
}


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A server under the audit hook, with a link to a checkpoint in its working folder."""
    work = tmp_path_factory.mktemp("watched")
    folder = write_tiny(work / "tiny")
    (work / "link").symlink_to(folder)
    popen = subprocess.Popen(
        [sys.executable, audited.__file__, work / "events", "serve", folder, "--port", "0"],
        cwd=work,
        env={"PYTHONPATH": str(audited.ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert popen.stdout is not None
    told = ""
    while "curl" not in told:
        line = popen.stdout.readline()
        assert line
        told += line
    found = re.search(r"127\.0\.0\.1:(\d+)", told)
    assert found
    server = Process(int(found[1]), popen)
    for route, body in ROUTES.items():  # whatever is imported late is imported now
        call(server, "POST", route, body)
    for path in ("/v1/models/tiny", "/v1/models/none", "/nowhere", "/v1/models/"):
        call(server, "GET", path)
    yield server, work / "events"
    popen.send_signal(signal.SIGTERM)
    popen.communicate(timeout=30)


def touched(path, since: float) -> list[audited.Event]:
    """Events of files, modules and programs."""
    names = ("open", "import", "exec", "os.", "subprocess.", "shutil.")
    return [e for e in audited.events(path) if e.at >= since and e.name.startswith(names)]


@pytest.mark.parametrize("route", ROUTES)
def test_row_26_names_in_bodies(watched, route):
    server, events = watched
    since = time.monotonic()
    for name in NAMES:
        response, text = call(server, "POST", route, {**ROUTES[route], "model": name})
        assert response.status == 404, (name, text)
        error = json.loads(text)["error"]
        assert error["code"] == "model_not_found" and error["param"] == "model"
    assert not touched(events, since)


def test_row_26_names_in_paths(watched):
    server, events = watched
    since = time.monotonic()
    raw = [name for name in NAMES if name.isascii() and name.isprintable() and " " not in name]
    for name in (*raw, "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "%00", "tiny%0d%0aX-Evil:1", "%ff%fe"):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        connection.putrequest("GET", f"/v1/models/{name}", skip_host=False)
        connection.endheaders()
        response = connection.getresponse()
        text = response.read()
        assert response.status in (400, 404), (name, text)
        assert response.headers["X-Evil"] is None
        connection.close()
    assert not touched(events, since)


@pytest.mark.parametrize("field", ["lora", "lora_path", "adapter", "model_path", "checkpoint"])
def test_row_26_nothing_is_loaded_by_request(watched, field):
    server, events = watched
    since = time.monotonic()
    response, text = call(server, "POST", "/v1/completions", {**BODY, field: "../tiny"})
    assert response.status == 400 and field in json.loads(text)["error"]["message"]
    assert call(server, "POST", "/v1/load_lora_adapter", {"lora_path": "../x"})[0].status == 404
    assert not touched(events, since)
