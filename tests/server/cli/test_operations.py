"""Operation of a real ``xdlm serve``: keys, settings and log lines."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time

import openai
import pytest
from pydantic import ValidationError

from server.config import Settings
from server.http.addresses import listening
from server.http.api_keys import Keys
from tests.support.http import BODY, call, raw_post
from tests.support.paths import ROOT
from tests.support.processes import XDLM, serving, xdlm
from tests.support.serving import make_engine, run_server, settings_of

FLAG, FILED, VARIABLE = "sk-flag-0123456789", "sk-file-0123456789", "sk-env-0123456789"
PROMPT = "zebra zebra zebra"


def bearer(key: str) -> dict[str, str]:
    return {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}


def test_keys_and_log_lines_of_a_process(tiny_folder, tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"# the first\n\n  {FILED}  \n# {VARIABLE}-not\n")
    file.chmod(0o600)
    args = (str(tiny_folder), "--api-key", FLAG, "--api-key-file", str(file))
    with serving(*args) as server:
        time.sleep(0.2)
        body = {**BODY, "prompt": PROMPT}
        for key in (FLAG, FILED):
            response, _ = call(server, "POST", "/v1/completions?secret=1", body, bearer(key))
            assert response.status == 200
        for path in ("/health", "/ready"):
            assert call(server, "GET", path)[0].status == 200
        assert call(server, "GET", "/metrics", headers=bearer(FLAG))[0].status == 200
        headers = {**bearer("wrong-key"), "X-Request-Id": "mine"}
        assert call(server, "POST", "/v1/completions", body, headers)[0].status == 401
        assert call(server, "GET", "/nowhere/at/all", headers=bearer(FLAG))[0].status == 404
        assert call(server, "GET", "/v1/models/none", headers=bearer(FLAG))[0].status == 404
        stream = {**body, "stream": True}
        response, text = call(server, "POST", "/v1/completions", stream, bearer(FLAG))
        assert text.endswith(b"data: [DONE]\r\n\r\n") or text.endswith(b"data: [DONE]\n\n")
        for gone in ({**stream, "steps": 4000, "trajectory": "delta"}, {**body, "steps": 4000}):
            connection = raw_post(server.port, gone, f"Authorization: Bearer {FLAG}\r\n")
            if "stream" in gone:
                assert b"200 OK" in connection.recv(4096)
            else:
                time.sleep(0.3)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            connection.close()
            time.sleep(0.3)
    told = [
        (x["method"], x["route"], x["status"], x["end"])
        for x in server.lines()
        if x["event"] == "request"
    ]
    post = ("POST", "/v1/completions")
    assert told == [
        (*post, 200, "finished"),
        (*post, 200, "finished"),
        ("POST", None, 401, "finished"),
        ("GET", None, 404, "finished"),
        ("GET", "/v1/models/{name:path}", 404, "finished"),
        (*post, 200, "finished"),
        (*post, 200, "client gone"),
        (*post, 499, "client gone"),
    ]
    lines = server.lines()
    assert {"request_id", "seconds", "bytes", "timestamp", "level"} <= set(lines[0])
    assert lines[2]["request_id"] == "mine" and lines[0]["seconds"] > 0
    assert lines[5]["bytes"] == len(text)
    for secret in (FLAG, FILED, "wrong-key", "zebra", "secret", "nowhere"):
        assert secret not in server.stderr


@pytest.fixture(scope="module")
def keyed(tiny):
    yield from run_server(make_engine(tiny), settings_of(api_keys=[FLAG, FILED]))


@pytest.mark.parametrize("path", ["/v1/models", "/version", "/metrics", "/nowhere", "/health/"])
def test_every_route_but_two_asks_for_a_key(keyed, path):
    response, text = call(keyed, "GET", path)
    assert response.status == 401 and response.headers["WWW-Authenticate"] == "Bearer"
    assert response.headers["X-Request-Id"]
    error = json.loads(text)["error"]
    assert error["code"] == "invalid_api_key" and error["type"] == "authentication_error"


@pytest.mark.parametrize("value", [f"Bearer {FLAG}", f"bearer {FILED}", f"Bearer  {FLAG} "])
def test_request_with_a_key_is_answered(keyed, value):
    assert call(keyed, "GET", "/v1/models", headers={"Authorization": value})[0].status == 200


@pytest.mark.parametrize(
    "value",
    [
        *("", "Bearer", "Bearer ", FLAG, f"Basic {FLAG}", f"Bearer {FLAG}x"),
        *(f"Bearer {FLAG[:-1]}", f"Bearer {FLAG},{FILED}", "Bearer \xe9"),
    ],
)
def test_what_is_no_key_does_not(keyed, value):
    assert call(keyed, "GET", "/v1/models", headers={"Authorization": value})[0].status == 401


def test_the_key_is_asked_for_before_the_body_is_read(keyed):
    """The body is announced and never sent: the answer comes all the same."""
    with socket.create_connection(("127.0.0.1", keyed.port), timeout=5) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 401")


def test_the_sdk_knows_the_error(keyed):
    settings = {"base_url": f"http://127.0.0.1:{keyed.port}/v1", "max_retries": 0}
    with openai.OpenAI(api_key="wrong", **settings) as sdk:
        with pytest.raises(openai.AuthenticationError) as caught:
            sdk.completions.create(model="tiny", prompt="x")
        assert caught.value.code == "invalid_api_key"
    with openai.OpenAI(api_key=FLAG, **settings) as sdk:
        assert sdk.models.list().data[0].id == "tiny"


@pytest.mark.parametrize("value", ["Bearer ", "Bearer x", "", "Basic x"])
def test_without_keys_any_header_is_accepted(served, value):
    assert call(served, "GET", "/v1/models", headers={"Authorization": value})[0].status == 200


def test_settings_hold_digests(tmp_path):
    file = tmp_path / "keys"
    file.write_text(FILED)
    settings = settings_of(api_keys=f"{FLAG}, {VARIABLE}", api_key_file=str(file))
    assert FLAG not in repr(settings) and FILED not in str(settings)
    assert "Keys(2)" in repr(settings) and FLAG not in str(vars(settings))
    for key in (FLAG, VARIABLE):
        assert settings.api_keys.accept(f"Bearer {key}")
    assert settings.api_key_file.accept(f"Bearer {FILED}")


@pytest.mark.parametrize("keys", ["", " ", "a,,b", [], ["good", "bad key"], ["schlüssel"]])
def test_no_server_is_open_by_an_empty_or_broken_list_of_keys(keys):
    with pytest.raises(ValidationError) as caught:
        settings_of(api_keys=keys)
    assert "good" not in str(caught.value) and "bad key" not in str(caught.value)


def test_keys_come_from_the_environment_and_bad_files_are_one_line(tmp_path):
    code = "from server.config import Settings; print(Settings().api_keys)"
    run = subprocess.run(
        [XDLM.with_name("python"), "-c", code],
        env={**os.environ, "XDLM_API_KEYS": f"{VARIABLE},{FLAG}"},
        capture_output=True,
        text=True,
    )
    assert run.stdout.strip() == "Keys(2)", run.stderr
    (tmp_path / "empty").write_text("# nothing\n")
    for name, words in (("missing", "cannot read"), ("empty", "has no key")):
        done = xdlm("serve", "--api-key-file", str(tmp_path / name))
        assert done.returncode == 2 and f"api_key_file: {words}" in done.stderr
        assert "Traceback" not in done.stderr


def test_every_key_is_compared():
    keys = Keys.of(["a", "b", "a"])
    assert len(keys.digests) == 2 and keys and not Keys()
    assert [keys.accept(f"Bearer {k}") for k in "abc"] == [True, True, False]


def test_every_setting_is_said():
    page = (ROOT / "docs" / "operations.md").read_text()
    for name, field in Settings.model_fields.items():
        assert field.description and f"`{name}`" in page, name


@pytest.mark.parametrize(
    ("host", "names"),
    [
        ("127.0.0.2", {"127.0.0.2"}),
        ("127.1.2.3", {"127.1.2.3"}),
        ("::1", {"[::1]"}),
        ("[::1]", {"[::1]"}),
        ("0:0:0:0:0:0:0:1", {"[::1]"}),
        ("LocalHost", {"localhost"}),
    ],
)
def test_on_any_loopback_address_only_its_own_names_are_answered(host, names):
    assert settings_of(host=host).hosts == names | {"localhost", "127.0.0.1", "[::1]"}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "fd00::1", "box.example"])
def test_beyond_loopback_all_names_are_answered_unless_told(host):
    assert not settings_of(host=host).hosts
    assert settings_of(host=host, allowed_hosts=["box"]).hosts == {"box"}


def test_a_name_that_leads_to_loopback_is_guarded_like_loopback():
    bound = settings_of(host="box.example").at("127.0.1.1")
    assert bound.hosts == {"localhost", "127.0.0.1", "[::1]", "box.example", "127.0.1.1"}
    assert settings_of(host="box.example").at("10.0.0.1").hosts == frozenset()


def test_addresses_that_cannot_be_listened_on_say_so():
    for host in ("::1", "192.0.2.1", "no such host", "x" * 70, "..", "fe80::1%nowhere"):
        try:
            listening(host, 0).close()
        except OSError as error:
            assert error.strerror and "\n" not in error.strerror
        else:
            assert host == "::1"  # of a machine that speaks IPv6


def test_a_second_loopback_address_answers_no_foreign_host(tiny_folder):
    with serving(str(tiny_folder), "--host", "127.0.0.2") as server:
        for name, status in (("127.0.0.2", 200), ("localhost", 200), ("evil.example", 400)):
            with socket.create_connection(("127.0.0.2", server.port), timeout=20) as connection:
                connection.sendall(f"GET /v1/models HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
                assert connection.recv(4096).startswith(f"HTTP/1.1 {status}".encode()), name
    assert "no key is asked for" not in server.stderr


def test_an_open_server_beyond_loopback_and_a_shared_key_file_are_warnings(tiny_folder, tmp_path):
    with serving(str(tiny_folder), "--host", "0.0.0.0") as server:
        pass
    warned = [line["event"] for line in server.lines() if line["level"] == "warning"]
    assert warned == ["no API key is set: anyone who can reach the port can use the server"]
    (tmp_path / "keys").write_text(FILED)
    (tmp_path / "keys").chmod(0o644)
    file = ("--api-key-file", str(tmp_path / "keys"))
    with serving(str(tiny_folder), "--host", "0.0.0.0", *file) as server:
        pass
    (warning,) = [line for line in server.lines() if line["level"] == "warning"]
    assert warning["setting"] == "api_key_file" and warning["mode"] == "0644"


def test_a_port_that_is_taken_hides_no_other_fault(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = xdlm("serve", "nowhere", "--port", port)
        assert done.returncode == 1 and "no checkpoint at 'nowhere'" in done.stderr
        done = xdlm("serve", "stories", "--port", port)
        assert done.returncode == 1 and f"cannot listen on 127.0.0.1:{port}" in done.stderr


def test_answers_are_sent_at_once():
    with listening("127.0.0.1", 0) as listener:
        with socket.create_connection(listener.getsockname()):
            accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
