"""Settings from flags, environment and file, and as a file again."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
import yaml

from server.config import ConfigError, Settings
from tests.support.paths import ROOT
from tests.support.processes import XDLM, xdlm


def test_flags_over_environment_over_file_over_defaults(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("max_running: 5\nmax_waiting: 6\nthreads: 7\ncheckpoints: [stories, digits]\n")
    env = {**os.environ, "XDLM_MAX_RUNNING": "2", "XDLM_MAX_WAITING": "3"}
    told = xdlm("serve", "--config", file, "--max-running", "1", "--print-config", env=env)
    effective = yaml.safe_load(told.stdout)
    names = ("max_running", "max_waiting", "threads", "checkpoints", "port")
    assert [effective[name] for name in names] == [1, 3, 7, ["stories", "digits"], 8000]
    again = tmp_path / "again.yaml"
    again.write_text(told.stdout)
    assert Settings.read({}, again) == Settings.read(effective)
    assert Settings.read({}, again).as_yaml() == told.stdout


def test_printed_settings_hold_no_key_and_name_the_file(tmp_path):
    (tmp_path / "keys").write_text("sk-filed\n")
    given = {"api_keys": "sk-one,sk-two", "api_key_file": str(tmp_path / "keys")}
    settings = Settings.read(given)
    shown = settings.as_yaml()
    assert "sk-" not in shown and "# api_keys: 2 given" in shown
    assert yaml.safe_load(shown)["api_key_file"] == str(tmp_path / "keys")
    assert set(yaml.safe_load(shown)) == set(Settings.model_fields) - {"api_keys"}
    (tmp_path / "again.yaml").write_text(shown)
    assert Settings.read({}, tmp_path / "again.yaml").keys.accept("Bearer sk-filed")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_waitng: 3", "max_waitng is not a setting; did you mean max_waiting"),
        ("1: 2", "line 1: not a setting"),
        ("port: 1\nport: 2", "port is set twice"),
        ("- port", "expected lines of the form"),
        ("{", "is not YAML"),
        ("? [a]\n: 3", "is not YAML"),
        ("threads: !!python/object/apply:os.getpid []", "is not YAML"),
        ("port: x", "port: Input should be a valid integer"),
        ("max_running: 0", "max_running: Input should be greater"),
        ("checkpoints: []", "checkpoints: Value should have at least 1 item"),
        ("api_keys: [sk-one, 'sk two']", "api_keys: a key must be printable"),
        ("\udcff", "is not YAML"),
    ],
)
def test_files_that_are_refused_in_a_line(tmp_path, text, words):
    file = tmp_path / "x.yaml"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError) as caught:
        Settings.read({}, file)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert "sk two" not in str(caught.value)


def test_an_empty_file_changes_nothing_and_none_is_an_error(tmp_path):
    (tmp_path / "x.yaml").write_text("# nothing\n")
    assert Settings.read({}, tmp_path / "x.yaml") == Settings.read({})
    done = xdlm("serve", "--config", str(tmp_path / "none.yaml"))
    assert done.returncode == 2 and "cannot read" in done.stderr and not done.stdout


@pytest.mark.slow
def test_the_shell_completes_commands_and_flags():
    def completed(words: str) -> list[str]:
        asked = {"_XDLM_COMPLETE": "complete_bash", "COMP_WORDS": words}
        count = {"COMP_CWORD": str(len(words.split()) - 1)}
        env = {**os.environ, **asked, **count}
        done = subprocess.run([XDLM], env=env, capture_output=True, text=True)
        return done.stdout.split()

    assert completed("xdlm sc") == ["score"]
    assert completed("xdlm serve --print") == ["--print-config"]


def test_the_systemd_unit_starts_what_there_is(tmp_path):
    unit = (ROOT / "deploy" / "xdlm.service").read_text()
    if verifier := shutil.which("systemd-analyze"):
        (tmp_path / "xdlm.service").write_text(unit.replace("/opt/xdlm-serve", str(ROOT)))
        judged = subprocess.run(
            [verifier, "verify", tmp_path / "xdlm.service"], capture_output=True, text=True
        )
        assert "xdlm.service" not in judged.stderr, judged.stderr
    (start,) = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    program, command, *flags = start.removeprefix("ExecStart=").split()
    assert program.endswith(f"/.venv/bin/{XDLM.name}")
    shown = xdlm(command, "--help")
    assert shown.returncode == 0 and all(flag in shown.stdout for flag in flags[::2])
