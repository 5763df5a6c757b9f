"""Every setting with every wrong kind of value, from the file, the environment and the command
line, by the command's own entry point. One process of its own tries them all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.cluster.settings import ClusterSettings
from server.config import ConfigError, Settings
from server.http.api_keys import Keys
from tests.support.effort import some
from tests.support.http import call, wait_for
from tests.support.processes import Process, port_of

SECRET = "sk-secret-0123456789"
TRY = """if True:
    import contextlib, io, json, os, sys
    from pathlib import Path
    import typer
    from server.cli import main
    from server.cli.serve import serve
    for line in sys.stdin:
        case = json.loads(line)
        out, errors = io.StringIO(), io.StringIO()
        os.environ.update(case["env"])
        sys.argv, code = ["xdlm", *case.get("args", ())], 0
        config = Path(case["config"]) if "config" in case else None
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
                if "args" in case:
                    main()
                else:  # past the parsing of the command line, which takes most of the time
                    serve(config=config, print_config=True)
        except SystemExit as ended:
            code = ended.code or 0
        except typer.Exit as ended:
            code = ended.exit_code
        for name in case["env"]:
            os.environ.pop(name, None)
        print(json.dumps([code, errors.getvalue()]), flush=True)
"""
EVERY: list[Any] = [None, {}, {"a": SECRET}, [[SECRET]]]
WRONG: dict[Any, list[Any]] = {
    int: [True, "", SECRET, 1.5, -1, 10**30, [1], ".inf"],
    float: [True, "", SECRET, -1, float("nan"), float("inf"), [1.0]],
    str: [True, 5, 1.5, [], [SECRET], "a\nb"],
    bool: [1, 0, 1.5, "", SECRET, [], [True]],
    list[str]: [True, 5, 1.5, [], [1], [None], [""], ["a\0b"], ["a", {}], ",", ""],
    Keys: [True, 5, 1.5, [], [1], [None], [""], ["sk secret"], f"{SECRET},,", "", [{}]],
}
OUT_OF_RANGE = {
    "port": [65536],
    "host": ["", "a b", " "],
    "device": ["", "tpu", "cuda:", "cuda:x", "cpu:1", "mps", "xpu", "meta", "CPU"],
    "dtype": ["", "float16", "int4"],
    "trace_endpoint": ["nowhere", "ftp://x/", "http://", "http://x:port/", "http://[::1/"],
    "threads": [100_000],
    "tensor_parallel": [100_000],
    "max_steps": [10_000],
    "api_key_file": ["/nowhere", "/", "/dev/null", "/dev/zero", "a\0b"],
    "checkpoints": [["a", "b", ""]],
}
MISSPELT = [
    *("XDLM_API_KEY", "XDLM_APIKEYS", "xdlm_api_key", "XDLM_API_KEYFILE", "XDLM_PORTS"),
    *("XDLM_SERVICE_HOST", "XDLM_", "XDLM_PORT_8000_TCP", "XDLM_ALLOWED_HOST", "XDLM_REPLICAS"),
]


def kind_of(name: str) -> Any:
    kind = Settings.model_fields[name].annotation
    return kind if kind in WRONG else Keys if "key" in name and "rate" not in name else str


def wrong_values(name: str) -> list[Any]:
    wrong = EVERY + WRONG[kind_of(name)] + OUT_OF_RANGE.get(name, [])
    fine = {"allowed_hosts": [[]], "api_key_file": [f"{SECRET},,"]}.get(name, [])
    return [value for value in wrong if value not in fine]


@pytest.fixture(scope="module")
def trials() -> Iterator[subprocess.Popen[str]]:
    """A process that tries the start with the settings of each line that it reads."""
    with subprocess.Popen(
        [sys.executable, "-c", TRY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process


def tried(trials: subprocess.Popen[str], cases: list[dict[str, Any]]) -> list[tuple[int, str]]:
    """Exit codes and what stood on stderr."""
    assert trials.stdin is not None and trials.stdout is not None
    found = []
    for case in cases:
        trials.stdin.write(json.dumps({"env": {}, **case}) + "\n")
        trials.stdin.flush()
        code, text = json.loads(trials.stdout.readline())
        found.append((code, text))
    return found


def judged(trials: subprocess.Popen[str], cases: list[dict[str, Any]]) -> None:
    """Each stops with code 2 and one line that names the setting and tells no value."""
    for case, (code, text) in zip(cases, tried(trials, cases), strict=True):
        assert code == 2, (case, text)
        assert text.count("\n") == 1 and text.startswith("xdlm: "), (case, text)
        assert case["told"] in text and SECRET not in text and "sk secret" not in text, (case, text)


def test_every_setting_with_a_wrong_value_in_the_file_stops_the_start(trials, tmp_path):
    cases = []
    for name in Settings.model_fields:
        for i, value in enumerate(wrong_values(name)):
            file = tmp_path / f"{name}-{i}.yaml"
            file.write_text(f"# a comment\n\n{yaml.safe_dump({name: value})}")
            cases.append({"config": str(file), "told": f"{file}, line 3: {name}: "})
    assert len(cases) > 400
    judged(trials, some(cases, 3))


def test_every_setting_with_a_wrong_text_in_its_variable_stops_the_start(trials):
    cases = []
    for name in Settings.model_fields:
        variable = f"XDLM_{name.upper()}"
        for value in wrong_values(name):
            text = value if isinstance(value, str) else None
            if kind_of(name) in (int, float, bool) and value is not None:
                text = json.dumps(value)
            if text is None or "\0" in text or (kind_of(name) is bool and text in "01true[]"):
                continue
            cases.append({"env": {variable: text}, "told": f"{variable}: {name}: "})
    assert len(cases) > 150
    judged(trials, some(cases, 2))


def test_every_flag_with_a_wrong_value_stops_the_start(trials):
    cases = []
    for flags, told in (
        (["--port", "abc"], "--port"),
        (["--port", "99999"], "port"),
        (["--threads", "1.5"], "--threads"),
        (["--max-running", "0"], "max_running"),
        (["--max-waiting", ""], "--max-waiting"),
        (["--host", ""], "host"),
        (["--dtype", "int3"], "dtype"),
        (["--device", "tpu"], "device"),
        (["--api-key", ""], "api_keys"),
        (["--api-key", f"{SECRET} {SECRET}"], "api_keys"),
        (["--api-key-file", "/nowhere"], "api_key_file"),
        (["--tensor-parallel", "-1"], "tensor_parallel"),
        (["--prot", "1"], "--prot"),
        (["--port"], "--port"),
        (["--config", "/nowhere"], "cannot read /nowhere"),
        ([""], "checkpoints"),
    ):
        cases.append({"args": ["serve", *flags, "--print-config"], "told": told})
    cases.append({"args": ["serv"], "told": "serv"})
    cases.append({"args": ["cluster", "--replicas", "0"], "told": "replicas"})
    cases.append({"args": ["cluster", "--replicas", "many"], "told": "--replicas"})
    cases.append({"args": ["generate", "--steps", "x"], "told": "--steps"})
    cases.append({"args": ["score", "x", "--samples", "x"], "told": "--samples"})
    cases.append({"args": ["draw", "3", "x.png", "--count", "0"], "told": "--count"})
    cases.append({"args": ["make-random", "/nowhere/x", "--seed", "9" * 40], "told": "--seed"})
    cases.append({"args": ["generate", "x\udcff"], "told": "must be text in UTF-8"})
    cases.append({"args": ["score", "x\udcff"], "told": "must be text in UTF-8"})
    cases.append({"args": ["score", "x", "--prompt", "\udcff"], "told": "--prompt"})
    cases.append({"args": ["generate", "x", "--regex", "\udcff"], "told": "--regex"})
    schema = ["generate", "x", "--json-schema", "/dev/zero"]
    cases.append({"args": schema, "told": "--json-schema has more than"})
    cases.append({"args": ["generate", "x", "--svg", "x.svg"], "told": "--svg needs --watch"})
    drawn = ["generate", "x", "--max-tokens", "2", "--steps", "1", "--watch", "--delay", "0"]
    cases.append({"args": [*drawn, "--svg", "/nowhere/x.svg"], "told": "--svg: /nowhere/x.svg: "})
    judged(trials, cases)


def test_a_variable_of_ours_that_is_no_setting_stops_the_start_with_the_nearest_name(trials):
    cases = [
        {"args": [command, *more], "env": {name: SECRET}, "told": name}
        for name in MISSPELT
        for command, more in (("serve", ["--print-config"]), ("cluster", []))
        if not (name == "XDLM_REPLICAS" and command == "cluster")
    ]
    judged(trials, cases)
    meant = {"XDLM_API_KEY": "XDLM_API_KEYS", "XDLM_PORTS": "XDLM_PORT"}
    near = [{"args": ["serve"], "env": {name: "x"}} for name in meant]
    for (_, text), name in zip(tried(trials, near), meant.values(), strict=True):
        assert f"did you mean {name}?" in text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"{SECRET}: 1", "line 1: not a setting"),
        (f"{SECRET}", "expected lines of the form"),
        (f"- {SECRET}", "expected lines of the form"),
        (f"api_keys: [{SECRET}\nport: 1", "line 2"),
        (f"api_keys: '{SECRET}", "line 1"),
        (f'api_keys: "\\{SECRET}"', "line 1"),
        (f"api_keys: *{SECRET}", "no anchors and aliases"),
        (f"api_keys: &{SECRET} [a]", "no anchors and aliases"),
        (f"api_keys: !{SECRET} [a]", "no tags"),
        (f"api_keys: !x!{SECRET} [a]", "line 1"),
        (f"api_keys:\n\t- {SECRET}", "a tab cannot indent"),
        (f"api_keys:\n  - {SECRET}\n bad: {SECRET}", "line 3"),
        (f"%{SECRET} x\n---\nport: 1\n---\n", "line 4, column 1: a second document"),
        (f"port: 1\n---\napi_keys: {SECRET}", "a second document"),
        (f"? [{SECRET}]\n: 1", "expected a name"),
        (f"? {{{SECRET}: 1}}\n: 1", "expected a name"),
        ("1: 2", "line 1: not a setting"),
        ("null: 2", "line 1: not a setting"),
        ("~: 2", "line 1: not a setting"),
        ("'': 2", "line 1: not a setting"),
        ("true: 2", "line 1: not a setting"),
        ("<<: {port: 1}", "line 1: not a setting"),
        ("port: 1\napi_key: [a]", "api_key is not a setting; did you mean api_keys?"),
        ("port: 1\nport: 1", "line 2: port is set twice"),
        ("port: =", "no value"),
        ("port: 2026-13-45", "no value"),
        ("port: " + "9" * 5000, "no value for port"),
        ("port: " + "[" * 50_000, "nested too deeply"),
        ("port: " + "{a: " * 50_000, "nested too deeply"),
        ("- " * 50_000, "nested too deeply"),
        ("#" * (1 << 18) + "\n", "more than 262144 bytes"),
        ("port: \x07", "not text"),
        (f"port: 1 {SECRET}: 2: 3", "line 1"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", "no anchors and aliases"),
    ],
)
def test_a_broken_file_is_one_line_without_its_content(tmp_path, text, told):
    file = tmp_path / "x.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        Settings.read({}, file)
    message = str(caught.value)
    assert told in message and "\n" not in message and "secret" not in message, message


@pytest.mark.parametrize(
    "data",
    [SECRET.encode("utf-16"), b"port: 1 # \xff", b"\x00", b"port: 1\x00"],
)
def test_a_file_that_is_no_text_is_one_line(tmp_path, data):
    (tmp_path / "x.yaml").write_bytes(data)
    with pytest.raises(ConfigError, match="is not YAML"):
        Settings.read({}, tmp_path / "x.yaml")


def test_a_file_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "x.yaml").write_bytes(b"\xef\xbb\xbfport: 1234\r\ndocs: yes\r\n")
    settings = Settings.read({}, tmp_path / "x.yaml")
    assert settings.port == 1234 and settings.docs is True


def test_a_wrong_value_stops_the_start_where_a_flag_overrides_it(tmp_path):
    (tmp_path / "x.yaml").write_text("port: many\n")
    with pytest.raises(ConfigError, match="line 1: port: "):
        Settings.read({"port": 0}, tmp_path / "x.yaml")


@pytest.mark.parametrize("given", [{"api_key_fil": "keys"}, {"replicas": True}, {"api_keys": None}])
def test_a_cluster_s_arguments_are_settings_of_their_kind(given):
    with pytest.raises(ValueError, match=next(iter(given))):
        ClusterSettings.model_validate(given)


@pytest.mark.slow
def test_variables_of_libraries_change_nothing(tiny_folder, tmp_path):
    """They used to end the start with a traceback. The module runs in any folder."""
    strange = {"WEB_CONCURRENCY": "abc", "FORWARDED_ALLOW_IPS": "*", "TERMINAL_WIDTH": "wide"}
    strange |= {"PROMETHEUS_MULTIPROC_DIR": "/nowhere", "PORT": "x", "UVICORN_PORT": "x"}
    with subprocess.Popen(
        [sys.executable, "-m", "server", "serve", tiny_folder, "--port", "0"],
        cwd=tmp_path,
        env={**os.environ, **strange},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as popen:
        server = Process(port_of(popen), popen)
        wait_for(lambda: call(server, "GET", "/ready")[0].status == 200)
        popen.terminate()
        assert popen.stderr is not None and "Traceback" not in popen.stderr.read()


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o400, False), (0o604, True)])
def test_a_key_file_that_others_can_read_is_a_warning(tmp_path, mode, warned):
    from server.http.api_keys import readable_by_others

    file = Path(tmp_path / "keys")
    file.write_text(SECRET)
    file.chmod(mode)
    assert (readable_by_others(file) == mode) is warned
    if not warned:
        assert readable_by_others(file) is None
