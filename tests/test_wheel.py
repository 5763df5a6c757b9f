"""The wheel alone: installed into an empty environment and used in an empty folder, without a
network. The locked packages are found in this test's own environment.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.support.http import call, wait_for
from tests.support.paths import ROOT
from tests.support.processes import Process, port_of

PACKAGES = ("server", "sampler", "models", "fusion", "loadtest")
NOWHERE = "http://127.0.0.1:9"


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel, and an empty folder."""

    wheel: Path
    scripts: Path
    folder: Path

    @property
    def variables(self) -> Mapping[str, str]:
        """None of this project, and no way to a network."""
        dropped = ("XDLM_", "PYTHON", "HF_", "VIRTUAL_ENV")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
        proxies = {f"{scheme}_proxy": NOWHERE for scheme in ("http", "https", "all")}
        return {**kept, **proxies, "HOME": str(self.folder), "HF_ENDPOINT": NOWHERE}

    def run(self, *args: str) -> str:
        """Run a command of the environment in the folder; what it prints."""
        done = subprocess.run(
            [self.scripts / args[0], *args[1:]],
            cwd=self.folder,
            env=self.variables,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextmanager
    def serving(self, *args: str) -> Iterator[Process]:
        """``xdlm serve`` until the block ends."""
        with subprocess.Popen(
            [self.scripts / "xdlm", "serve", *args, "--port", "0"],
            cwd=self.folder,
            env=self.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as popen:
            try:
                yield Process(port_of(popen), popen)
            finally:
                popen.send_signal(signal.SIGTERM)
                popen.communicate(timeout=30)


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Installed:
    place = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", place, ROOT]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = place.glob("*.whl")
    venv.create(place / "env", symlinks=True)
    scripts = place / "env" / "bin"
    python = scripts / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index"]
    subprocess.run([*pip, "--no-deps", "--no-compile", wheel], check=True)
    (packages,) = (place / "env" / "lib").glob("python*/site-packages")
    # what a folder of packages says of further folders is not read when it is named so
    others = [path for path in sys.path if path.endswith("-packages")]
    (packages / "others.pth").write_text("".join(f"{path}\n" for path in others))
    folder = place / "empty"
    folder.mkdir()
    return Installed(wheel, scripts, folder)


def test_the_wheel_holds_what_the_packages_read_and_nothing_else(installed):
    names = set(zipfile.ZipFile(installed.wheel).namelist())
    assert {n.split("/")[0] for n in names if ".dist-info" not in n} == set(PACKAGES)
    ours = [
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    assert len(ours) > 150 and "models/bundled/stories/model.safetensors" in ours
    assert set(ours) <= names


def test_the_wheel_alone_describes_and_serves_the_bundled_checkpoint(installed):
    assert installed.run("xdlm", "--version") == f"xdlm-serve {version('xdlm-serve')}\n"
    told = installed.run(
        "python",
        "-c",
        "import json, models, server; print(json.dumps([models.__file__, server.__file__]))",
    )
    assert all(str(installed.scripts.parent) in path for path in json.loads(told))
    facts = json.loads(installed.run("xdlm", "info", "stories", "--json"))
    assert facts["name"] == "stories" and facts["parameters"] == 8_541_216
    with installed.serving("stories") as server:
        wait_for(lambda: call(server, "GET", "/ready")[0].status == 200)
        body = {"prompt": "Once upon a time", "max_tokens": 20, "steps": 4, "seed": 1}
        response, text = call(server, "POST", "/v1/completions", body)
        assert response.status == 200 and json.loads(text)["choices"][0]["text"]
        page, content = call(server, "GET", "/")
        assert page.status == 200 and b"<html" in content
        assert call(server, "GET", "/page/main.js")[0].status == 200
    assert not [*installed.folder.iterdir()]
