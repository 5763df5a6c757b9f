"""Keys, hosts, headers, and what answers and logs tell."""

from __future__ import annotations

import inspect
import json
import random
import statistics
import time
from collections.abc import Callable

import pytest

from server.api.routes import page
from server.config import Settings
from server.http.api_keys import Keys
from server.http.middleware import NEEDS_NO_KEY
from tests.faults.conftest import watched
from tests.support.http import call
from tests.support.processes import serving
from tests.support.serving import make_engine, run_server, settings_of
from tests.support.sockets import CANARY, connect, read_all

KEY = "sk-0123456789abcdef"
TIMED = "sk-" + "0123456789abcdef" * 8


@pytest.fixture(scope="module")
def keyed(tiny):
    yield from run_server(make_engine(tiny), settings_of(api_keys=[KEY], docs=True))


def raw(port: int, method: str, target: str, *headers: str, host: str = "localhost") -> bytes:
    head = [f"{method} {target} HTTP/1.1", f"Host: {host}", "Connection: close", *headers]
    connection = connect(port)
    connection.sendall("\r\n".join([*head, "", ""]).encode("latin-1"))
    return read_all(connection)


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def test_row_27_every_route_asks_for_a_key(keyed):
    headers = {"Authorization": f"Bearer {KEY}"}
    spec = json.loads(call(keyed, "GET", "/openapi.json", headers=headers)[1])
    assert len(spec["paths"]) > 12
    for path, operations in spec["paths"].items():
        target = path.replace("{", "").replace("}", "")
        for verb in {*(name.upper() for name in operations), "HEAD", "OPTIONS", "PUT"}:
            answer = raw(keyed.port, verb, target)
            assert (status(answer) == 401) != (path in NEEDS_NO_KEY), (verb, path)
    for target in ("/docs", "/openapi.json", "/nowhere", "/page", "/page/nowhere", "*"):
        assert status(raw(keyed.port, "OPTIONS" if target == "*" else "GET", target)) == 401
    for target in page.assets():
        assert status(raw(keyed.port, "GET", target)) == 200, target


@pytest.mark.parametrize(
    "target",
    [
        *("//v1/models", "/v1//models", "/v1/models/", "/v1/%6dodels", "/V1/models"),
        *("/v1/../health", "/health/../v1/models", "/health%2f..%2fv1%2fmodels"),
        *("/health;/v1/models", "/health?/v1", "/%2e%2e/v1/models", "/health%00", "/ready/"),
        *("http://localhost/v1/models", "/v1/models#x"),
    ],
)
def test_row_27_no_way_of_writing_a_path_goes_round_the_key(keyed, target):
    code = status(raw(keyed.port, "GET", target))
    assert code in (400, 401) or target == "/health?/v1"


@pytest.mark.parametrize(
    "value",
    [
        *("", "Bearer", f"Bearer {KEY[:-1]}", f"Bearer {KEY}0", f"Bearer {KEY.upper()}"),
        *(f"Basic {KEY}", KEY, f"Bearer {KEY}\xe9", "Bearer \xff", f"Bearer {KEY} {KEY}"),
        f"Bearer {'x' * 20_000}",
    ],
)
def test_row_27_keys_that_are_nearly_right(keyed, value):
    assert status(raw(keyed.port, "GET", "/v1/models", f"Authorization: {value}")) == 401
    right = raw(keyed.port, "GET", "/v1/models", f"Authorization: Bearer {KEY}")
    assert status(right) == 200


NOT_OURS = [
    *("x/?#", "localhost/..", "evil.example", "localhost@evil.example", "", "127.0.0.1.evil"),
    "a b",
]


def test_row_27_hosts_that_are_none_of_ours(tiny):
    with watched(tiny) as server:
        for host in NOT_OURS:
            answer = raw(server.port, "GET", "/v1/models", host=host)
            assert status(answer) == 400, host
            assert b"bad_host" in answer or b"bad_request" in answer, host


def test_row_27_hosts_that_are_ours(tiny):
    with watched(tiny) as server:
        for host in ("localhost", "LOCALHOST:80", f"127.0.0.1:{server.port}", "[::1]:8000"):
            assert status(raw(server.port, "GET", "/v1/models", host=host)) == 200
        twice = raw(server.port, "GET", "/v1/models", "Host: evil.example")
        assert status(twice) == 400
    assert settings_of(host="0.0.0.0").hosts == frozenset()
    assert settings_of(host="0.0.0.0", allowed_hosts="A.example,b").hosts == {"a.example", "b"}


def test_row_27_keys_are_compared_as_digests_of_one_length():
    keys = Keys.of([KEY, "short"])
    assert {len(digest) for digest in keys.digests} == {32} and KEY not in repr(keys)
    assert "hmac.compare_digest(given, digest)" in inspect.getsource(Keys.accept)


def slower(accept: Callable[[str], object], pairs: int = 20_000) -> float:
    """Student's t of the time that a header with all but the last letter of the key takes, against
    one of its length that shares nothing with it: in pairs, in random order, each header new.

    What interrupts a measurement has nothing to do with keys and would drown a difference, so the
    pairs with the tenth of longest times are left out.
    """
    chance, differences, longest = random.Random(27), [], []
    for _ in range(pairs):
        near, far = TIMED[:-1] + "z", "".join(chance.choices("uvwxyz", k=len(TIMED)))
        took = {}
        for key in chance.sample([near, far], 2):
            header = f"Bearer {key}"
            began = time.perf_counter_ns()
            accept(header)
            took[key] = time.perf_counter_ns() - began
        differences.append(took[near] - took[far])
        longest.append(max(took.values()))
    limit = statistics.quantiles(longest, n=10)[8]
    kept = [d for d, most in zip(differences, longest, strict=True) if most <= limit]
    return statistics.mean(kept) / (statistics.stdev(kept) / len(kept) ** 0.5)


@pytest.mark.slow
def test_row_27_a_near_key_takes_as_long_as_a_far_one():
    """Equal times have |t| >= 4.5 once in 150,000 runs (7e-6, the normal distribution's two tails);
    a plain comparison of texts is found out.
    """
    assert abs(slower(Keys.of([TIMED]).accept)) < 4.5
    assert abs(slower(f"Bearer {TIMED}".__eq__)) > 4.5


def test_row_28_nothing_is_open_by_default(tiny):
    assert Settings.model_fields["host"].default == "127.0.0.1"
    with watched(tiny) as server:
        origin = "Origin: https://evil.example"
        for method in ("GET", "OPTIONS"):
            answer = raw(server.port, method, "/v1/models", origin)
            assert b"access-control" not in answer.lower()
        for path in ("/docs", "/redoc", "/openapi.json"):
            assert status(raw(server.port, "GET", path)) == 404
        assert b"\r\nserver:" not in raw(server.port, "GET", "/health").lower()


NASTY = ["x\r\nX-Injected: 1", "\x1b[31mred", '"}\n{"event": "forged"', "\x00", "\u2028"]
SECRET = "zebra-canary-secret"


def test_row_29_logs_and_answers_cannot_be_forged(tiny_folder):
    """Every line is one JSON object; nothing that a client wrote is in them."""
    with serving(str(tiny_folder), "--api-key", KEY) as process:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
        for text in NASTY:
            for field in ("model", "user", "prompt", "stop", "zzz"):
                body = {**CANARY, field: text + SECRET}
                response, told = call(process, "POST", "/v1/completions", body, headers)
                assert response.status in (200, 400, 404) and "X-Injected" not in response.headers
                answer = json.loads(told)
                assert "Traceback" not in told.decode() and "/work" not in str(answer.get("error"))
        for value in ("a\tb", "x" * 65, '"', "\xff"):
            answer = raw(process.port, "GET", "/health", f"X-Request-Id: {value}{SECRET}")
            assert SECRET.encode() not in answer and status(answer) == 200
        raw(process.port, "GET", f"/{SECRET}%0d%0aX-Injected:1", f"Authorization: Bearer {KEY}")
        raw(process.port, "GET", f"/{SECRET}", f"Authorization: Bearer {KEY}{SECRET}")
        connection = connect(process.port)
        connection.sendall(f"{SECRET}\x1b[31m no http\r\n\r\n".encode())
        read_all(connection)
    for line in process.stderr.splitlines():
        assert set(json.loads(line)) >= {"event", "level", "timestamp"}
        assert SECRET not in line and KEY not in line and "\x1b" not in line
