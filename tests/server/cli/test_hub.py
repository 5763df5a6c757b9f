"""Checkpoints by their name on a hub: downloaded, checked, served, listed and removed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from models.errors import CheckpointError
from models.hub.names import HubName, hub_name, name_of
from models.hub.snapshot import check_space
from tests.support.fork_server import ForkedPopen
from tests.support.http import post
from tests.support.hub import Hub, Repository, running_hub
from tests.support.processes import XDLM, serving, xdlm

NAME = "org/tiny-llada"
WEIGHTS = "model.safetensors"
TEXT = ("generate", "Tom", "--checkpoint", NAME, "--max-tokens", "4", "--steps", "2", "--seed", "1")


@pytest.fixture
def hub(tiny_folder) -> Iterator[Hub]:
    """A hub with one checkpoint that has code, a pickle and a page beside it."""
    with running_hub() as hub:
        others = {"modeling_llada_dot_py": b"raise SystemExit(3)\n", "README_dot_md": b"# A page"}
        repository = Repository.of(tiny_folder, pytorch_model_dot_bin=b"\x80\x04.", **others)
        config = json.loads(repository.files["config.json"])
        config["auto_map"] = {"AutoModel": "modeling_llada.LLaDAModelLM"}
        repository.files["config.json"] = json.dumps(config).encode()
        hub.repositories[NAME] = repository
        yield hub


def variables(hub: Hub, folder: Path, **others: str) -> dict[str, str]:
    """The environment of a command that uses this hub and a cache of its own."""
    found = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING_FACE"))}
    return found | {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf"), **others}


def line_of(done: subprocess.CompletedProcess[str]) -> str:
    """The line of a command that failed; lines of its download come before it."""
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("GSAI-ML/LLaDA-8B-Instruct", HubName("GSAI-ML/LLaDA-8B-Instruct")),
        ("org/name@v1.0", HubName("org/name", "v1.0")),
        ("org/name@refs/pr/3", HubName("org/name", "refs/pr/3")),
        *(("stories", None), ("./org/name", None), ("/org/name", None), ("org/name/more", None)),
        *(("org/../name", None), ("org/na--me", None), ("org/name@", None), ("org/name@a b", None)),
        *(("org/name@../../x", None), ("-org/name", None), ("org/näme", None), ("", None)),
    ],
)
def test_a_hub_s_name_is_told_from_paths(text, name):
    assert hub_name(text) == name


def test_a_snapshot_has_the_name_of_its_repository(tmp_path):
    place = tmp_path / "models--org--tiny" / "snapshots" / ("a" * 40)
    assert name_of(place) == "org/tiny" and name_of(tmp_path / "mine") == "mine"


def test_a_checkpoint_of_a_hub_is_served_and_no_code_is_fetched(hub, tmp_path):
    """The connection breaks twice, and the download goes on behind the last byte."""
    hub.repositories[NAME].cut[WEIGHTS] = [500_000, 200_000]
    environment = variables(hub, tmp_path, HF_TOKEN="hf_unprintable")
    with serving(NAME, port=0, **environment) as process:
        status, answer = post(process, model=NAME, prompt="Tom", max_tokens=4, steps=2)
        assert status == 200 and answer["model"] == NAME
    assert hub.names() == {"config.json", "generation_config.json", "tokenizer.json", WEIGHTS}
    whole = [each for each in hub.asked if each.file == WEIGHTS and each.sent > 10_000]
    assert [each.first for each in whole][:2] == [0, 500_000]
    size = len(hub.repositories[NAME].files[WEIGHTS])
    assert size <= sum(each.sent for each in whole) < size + 10_000
    assert f"{NAME}: downloading 1 files of weights, 1.2 MB, from {hub.url}" in process.stderr
    assert f"{NAME}: downloaded: 1.2 MB of 1.2 MB" in process.stderr
    assert "hf_unprintable" not in process.stderr

    asked = len(hub.paths)
    offline = xdlm(*TEXT, env=environment | {"HF_HUB_OFFLINE": "1"})
    assert offline.returncode == 0 and offline.stdout.startswith("Tom"), offline.stderr
    assert len(hub.paths) == asked and NAME not in offline.stderr
    gone = xdlm(*TEXT, env=environment | {"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert gone.returncode == 0 and gone.stdout == offline.stdout
    assert "cannot reach http://127.0.0.1:9" in gone.stderr and "is taken" in gone.stderr


def test_a_killed_pull_resumes_where_it_stopped(hub, tmp_path):
    size = len(hub.repositories[NAME].files[WEIGHTS])
    hub.repositories[NAME].stall[WEIGHTS] = third = int(size * 0.3)
    environment = variables(hub, tmp_path)
    popen = ForkedPopen(
        [XDLM, "pull", NAME], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment,
    )  # fmt: skip
    assert hub.stalled.wait(60)
    (part,) = _awaited(tmp_path, third)
    popen.send_signal(signal.SIGKILL)
    popen.communicate(timeout=30)
    kept = part.stat().st_size
    hub.go.set()
    hub.asked.clear()
    done = xdlm("pull", NAME, env=environment)
    assert done.returncode == 0, done.stderr
    assert [each.first for each in hub.asked if each.sent > 10_000] == [kept]
    assert re.search(r"1\.2 MB, 3\d\d\.\d kB of them in the cache", done.stderr), done.stderr
    told = json.loads(xdlm("list", "--json", env=environment).stdout)["cached"]
    assert [(each["repository"], each["refs"], each["complete"]) for each in told] == [
        (NAME, ["main"], True)
    ]
    removed = xdlm("rm", NAME, env=environment)
    assert removed.returncode == 0 and "1.6 MB freed" in removed.stdout
    assert "is not in the cache" in line_of(xdlm("rm", NAME, env=environment))


def _awaited(folder: Path, size: int) -> list[Path]:
    """The part of a file, once it has most of what was sent."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        parts = [*folder.rglob("*.xdlm-part")]
        if parts and parts[0].stat().st_size >= size * 0.8:
            return parts
        time.sleep(0.02)
    raise AssertionError("nothing was kept")


def test_other_bytes_than_the_hub_names_are_refused_and_deleted(hub, tmp_path):
    hub.repositories[NAME].lies = {WEIGHTS}
    environment = variables(hub, tmp_path)
    line = line_of(xdlm("serve", NAME, "--port", "0", env=environment))
    assert re.search(rf"{WEIGHTS} has the SHA-256 \w{{64}}, and the hub names \w{{64}}", line)
    assert not [path for path in tmp_path.rglob("*") if path.stat().st_size > 1_000_000]
    hub.repositories[NAME].lies = {"tokenizer.json"}
    other = variables(hub, tmp_path / "other")
    assert "tokenizer.json has the git hash" in line_of(xdlm("info", NAME, env=other))
    hub.repositories[NAME].lies = set()
    done = xdlm(*TEXT, env=environment)
    assert done.returncode == 0, done.stderr


def test_a_gated_checkpoint_needs_the_token_that_was_granted(hub, tmp_path):
    hub.repositories[NAME].gated = "hf_granted"
    line = line_of(xdlm("info", NAME, env=variables(hub, tmp_path)))
    assert f"access must be granted at {hub.url}/{NAME}" in line and "HF_TOKEN" in line
    wrong = xdlm("info", NAME, env=variables(hub, tmp_path, HF_TOKEN="hf_other"))
    assert "access must be granted" in line_of(wrong) and "hf_other" not in wrong.stderr
    done = xdlm("info", NAME, "--json", env=variables(hub, tmp_path, HF_TOKEN="hf_granted"))
    assert json.loads(done.stdout)["name"] == NAME, done.stderr


def test_info_fetches_headers_and_no_weights(hub, tmp_path):
    done = xdlm("info", NAME, "--json", env=variables(hub, tmp_path))
    assert json.loads(done.stdout)["parameters"] == 293_856, done.stderr
    assert 0 < hub.sent(WEIGHTS) < 10_000 and not [*tmp_path.rglob("*.safetensors")]


def test_repositories_that_are_no_checkpoint_are_refused_in_a_line(hub, tmp_path):
    environment = variables(hub, tmp_path)
    whole = hub.repositories[NAME]
    files = {name: data for name, data in whole.files.items() if name != WEIGHTS}
    index = json.dumps({"weight_map": {"a": "model-1.safetensors"}}).encode()
    hub.repositories["org/pickled"] = replace(whole, files=files)
    hub.repositories["org/holes"] = replace(
        whole, files=files | {"model.safetensors.index.json": index}
    )
    for name, words in (
        ("org/pickled", "has no model.safetensors; download it, then: xdlm convert"),
        ("org/holes", "the repository has no model-1.safetensors"),
        ("org/absent", "no checkpoint at 'org/absent': no folder here, and no repository on"),
        (f"{NAME}@v9", f"{NAME} has no revision 'v9'"),
    ):
        assert words in line_of(xdlm("serve", name, "--port", "0", env=environment))
    refused = xdlm("pull", "stories", env=environment)
    assert refused.returncode == 2 and "ORG/NAME" in refused.stderr
    assert "HF_HUB_OFFLINE is set; it is not in the cache" in line_of(
        xdlm("info", NAME, env=environment | {"HF_HUB_OFFLINE": "1"})
    )


def test_a_folder_comes_before_a_hub(hub, tiny_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / NAME)
    done = xdlm("info", NAME, "--json", cwd=tmp_path, env=variables(hub, tmp_path))
    assert json.loads(done.stdout)["name"] == "tiny-llada" and not hub.paths


def test_a_cache_that_cannot_be_written_is_one_line(hub, tmp_path):
    (tmp_path / "hf").write_text("a file")
    assert "Not a directory" in line_of(xdlm("pull", NAME, env=variables(hub, tmp_path)))


def test_a_download_that_the_disk_has_no_room_for_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"org/name: 10{18} bytes .* has \d+ free"):
        check_space(HubName("org/name"), 10**18, tmp_path)
