"""Row 25 of the faults: code that comes with a checkpoint is never run, nor asked for elsewhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import audited
from tests.support.http import call
from tests.support.processes import XDLM, Process
from tests.support.serving import write_tiny

REMOTE = {
    "auto_map": {"AutoConfig": "evil.Evil", "AutoModel": "someone/else--evil.Evil"},
    "trust_remote_code": True,
    "_attn_implementation": "someone/kernels:evil",
    "_attn_implementation_internal": "evil.attention",
    "attn_implementation": "evil",
    "architectures": ["evil.Evil"],
    "_name_or_path": "../../evil",
    "base_model_name_or_path": "someone/else",
    "quantization_config": {"quant_method": "evil", "module": "evil"},
}
MODULES = ("evil", "torch", "json", "sitecustomize", "modeling_llada", "configuration_llada")


@pytest.fixture
def folder(tmp_path) -> Path:
    """A good checkpoint with everything beside it that has made a loader run code."""
    folder = write_tiny(tmp_path / "tiny")
    for name in ("config.json", "generation_config.json"):
        held = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**held, **REMOTE}))
    tokens = {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps({**REMOTE, **tokens}))
    for name in MODULES:
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')\n")
    (folder / "adapter_config.json").write_text(json.dumps(REMOTE))
    return folder


def test_row_25_is_ignored(folder, tmp_path):
    cases = [
        ["info", str(folder)],
        ["generate", "Tom", "--checkpoint", str(folder), "--max-tokens", "8", "--steps", "2"],
        ["convert", str(folder), str(tmp_path / "out" / "made")],
    ]
    listed = [
        {"arguments": c, "output": str(tmp_path / f"o{i}"), "events": str(tmp_path / f"e{i}")}
        for i, c in enumerate(cases)
    ]
    (tmp_path / "cases.json").write_text(json.dumps(listed))
    program = [sys.executable, "-m", "tests.faults.audited", "--cases", tmp_path / "cases.json"]
    done = subprocess.run(program, cwd=audited.ROOT, capture_output=True, text=True, check=True)
    for case, status in zip(listed, json.loads(done.stdout), strict=True):
        assert status == 0, Path(case["output"]).read_text()
        seen = audited.events(Path(case["events"]))
        assert not {e.what for e in seen if e.name == "import"} & {"evil", "modeling_llada"}
        foreign = audited.foreign(seen, folder, tmp_path / "out")
        # asyncio wakes its loop through a pair of sockets
        assert not [e for e in foreign if e.name != "socket.__new__"], case["arguments"]
        assert not [
            e
            for e in seen
            if e.name in ("open", "exec")
            and e.what.endswith(".py")
            and folder in Path(e.what).parents
        ]
    made = sorted(path.name for path in (tmp_path / "out" / "made").iterdir())
    assert not [name for name in made if name.endswith(".py")]
    assert "auto_map" not in (tmp_path / "out" / "made" / "config.json").read_text()
    assert not (tmp_path / "canary").exists()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
def test_row_25_by_its_system_calls(folder, tmp_path):
    """A server that is started inside the folder, asked and stopped: what the kernel saw of it."""
    log = tmp_path / "calls"
    calls = "trace=open,openat,openat2,execve,execveat,connect,bind,sendto"
    traced = ["strace", "-f", "-qq", "-s", "4096", "-e", calls, "-o", log]
    server = subprocess.Popen(
        [*traced, XDLM, "serve", folder, "--port", "0"],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "temporary")},
    )
    (tmp_path / "temporary").mkdir()
    assert server.stdout is not None
    told = ""
    while "curl" not in told:
        line = server.stdout.readline()
        assert line
        told += line
    found = re.search(r"127\.0\.0\.1:(\d+)", told)
    assert found
    body = {"prompt": "Tom", "max_tokens": 8, "steps": 2}
    response, _ = call(Process(int(found[1]), server), "POST", "/v1/completions", body)
    assert response.status == 200
    (child,) = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGTERM)
    server.communicate(timeout=60)
    assert server.returncode in (0, -signal.SIGTERM) and not (tmp_path / "canary").exists()
    seen = [line.split(" ", 1)[1].strip() for line in log.read_text().splitlines()]
    started = [line for line in seen if line.startswith("execve")]
    assert len(started) == 1 and "xdlm" in started[0]
    assert not [line for line in seen if line.startswith("connect") and "AF_INET" in line]
    assert len([line for line in seen if line.startswith("bind") and "AF_INET" in line]) == 1
    successful = re.compile(r'open\w*\((?:AT_FDCWD, )?"([^"]+)".*= \d')
    opened = [found[1] for line in seen if (found := successful.match(line))]
    # an editable installation is looked for in its folder
    opened = [path for path in opened if path != str(audited.ROOT)]
    events = [audited.Event("open", str(folder / path), "", 0.0) for path in opened]
    own = [folder, tmp_path / "temporary", Path("/dev/shm"), Path("/lib"), Path("/bin")]
    own += [Path(sys.prefix), Path(sys.base_prefix), Path("/dev/urandom"), Path("/dev/zero")]
    assert len(events) > 100 and not audited.foreign(events, *own)
    assert not [
        path
        for path in opened
        if path.endswith(tuple(f"/{name}.py" for name in MODULES)) and str(folder) in path
    ]
