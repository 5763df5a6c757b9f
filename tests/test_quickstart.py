"""The commands of docs/quickstart-gpu.md, in their order and as they stand there, without a GPU.

A hub on loopback has a small checkpoint under each name. A block whose fence says more than ``sh``
needs something that a test does not have, and is left out.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from models.bundled import BUNDLED
from tests.support.hub import Repository, running_hub
from tests.support.paths import ROOT
from tests.support.processes import Process, serving, xdlm
from tests.support.serving import write_tiny

PAGE = ROOT / "docs" / "quickstart-gpu.md"
MARKS = {"", "gpu", "docker", "root", "network"}
"""What a block may need: nothing that is not here, or one of these."""
XDLM, PYTHON = ".venv/bin/xdlm", ".venv/bin/python"
NAME = re.compile(r"[\w-]+/(?:LLaDA|Dream|SDAR)[\w.-]*")


def blocks() -> list[tuple[str, str]]:
    """The mark and the commands of each block of shell commands."""
    return re.findall(r"^```sh ?(\w*)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def commands(block: str) -> list[list[str]]:
    """The words of each command of a block. A quoted word may have several lines."""
    found, waiting = [], ""
    for line in block.splitlines():
        waiting += f"{line}\n"
        try:
            words = shlex.split(waiting, comments=True)
        except ValueError:  # a quotation that is still open
            continue
        found.append(words)
        waiting = ""
    assert not waiting
    return found


def test_blocks_that_are_left_out_say_why():
    fences = re.findall(r"^```(.*)$", PAGE.read_text(), re.MULTILINE)[::2]
    assert fences and {fence.removeprefix("sh").strip() for fence in fences} <= MARKS
    assert sum(not mark for mark, _ in blocks()) >= 5
    for mark, block in blocks():
        needs = {"docker", "sudo", "make", "cuda:1", "--gpus"} & set(block.split())
        assert bool(mark) == bool(needs), block


@pytest.mark.skipif(shutil.which("curl") is None, reason="the page uses curl")
def test_commands_that_need_no_gpu_run_in_their_order(tmp_path):
    folder = write_tiny(tmp_path / "tiny")
    shutil.copy(BUNDLED / "stories" / "tokenizer_config.json", folder)
    (folder / "generation_config.json").unlink()  # published ones do not say how they are run
    written = [words for mark, block in blocks() if not mark for words in commands(block)]
    place = tmp_path / "clone"
    place.mkdir()
    told: dict[str, str] = {}
    with running_hub() as hub, ExitStack() as running:
        names = {word for words in written for word in words if NAME.fullmatch(word)}
        assert names == {"GSAI-ML/LLaDA-8B-Instruct"}
        for name in names:
            hub.repositories[name] = Repository.of(folder)
        env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        env |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
        server: Process | None = None
        for words in written:
            if words[:2] == [XDLM, "serve"] and len(words) == 3:
                server = running.enter_context(serving(words[2], port=0, **env))
                continue
            if words[0] == "curl":
                assert server is not None
                words = [word.replace(":8000/", f":{server.port}/") for word in words]
            kind = words[1] if words[0] == XDLM else words[0]
            told[kind] = said(words, place, env)
        assert hub.sent("model.safetensors") > 1_000_000
    assert re.search(r" (True|False)\n", told[PYTHON])  # whether CUDA is there
    assert "recipe" in told["info"] and "GSAI-ML/LLaDA-8B-Instruct" in told["info"]
    assert "293,856 parameters" in told["pull"] and "GSAI-ML/LLaDA-8B-Instruct" in told["list"]
    assert "GSAI-ML/LLaDA-8B-Instruct" in (place / "config.yaml").read_text()
    answer = json.loads(told["curl"])
    assert answer["model"] == "GSAI-ML/LLaDA-8B-Instruct"
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert 0 < answer["usage"]["completion_tokens"] <= 128  # those of its recipe


def said(words: list[str], place: Path, env: dict[str, str]) -> str:
    """Run a command to its end; what it prints, also into a file where the page says so."""
    out: Path | None = None
    if ">" in words:
        *words, _, file = words
        out = place / file
    if words[0] == XDLM:
        done = xdlm(*words[1:], cwd=place, env=env)
    else:
        program = sys.executable if words[0] == PYTHON else words[0]
        run = [program, *words[1:]]
        done = subprocess.run(run, cwd=place, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, (words, done.stderr)
    if out is not None:
        out.write_text(done.stdout)
    return done.stdout
