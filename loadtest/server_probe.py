"""Reads models, counters and versions of a server, and starts one for a load test."""

from __future__ import annotations

import asyncio
import hashlib
import os
import platform
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from loadtest.errors import Refusal

START_SECONDS, IDLE_SECONDS = 60.0, 20.0


class Unsuitable(Refusal):
    """The server cannot do this load test; the message says why."""


async def json_of(session: aiohttp.ClientSession, path: str) -> Any:
    """JSON of a GET, or None if the status is not 200."""
    async with session.get(path) as response:
        return await response.json() if response.status == 200 else None


async def choose_model(
    session: aiohttp.ClientSession, wanted: str | None, images: bool
) -> dict[str, Any]:
    """The entry of ``/v1/models`` that the run uses.

    Raises:
        Unsuitable: no model has the name, or none generates the right kind of output.
    """
    listed = (await json_of(session, "/v1/models") or {}).get("data", [])
    names = [m["id"] for m in listed]
    if wanted is not None and wanted not in names:
        raise Unsuitable(f"the server has no model {wanted!r}; it has {', '.join(names) or 'none'}")
    for model in listed:
        draws = bool((model.get("diffusion") or {}).get("image"))
        if wanted in (None, model["id"]) and draws == images:
            return model
    raise Unsuitable(f"the server has no model for {'images' if images else 'text'}")


async def counters(session: aiohttp.ClientSession) -> dict[str, float]:
    """Request counters of the server's metrics; empty if it has none.

    ``busy``: requests running or waiting now. ``ended``: requests whose denoising ended. ``ok``:
    texts that were delivered. Then failures, by code.
    """
    async with session.get("/metrics") as response:
        if response.status != 200:
            return {}
        text = await response.text()
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "xdlm_e2e_request_latency_seconds_count":
                found["ended"] = sample.value
            elif sample.name == "xdlm_request_success_total":
                found["ok"] = found.get("ok", 0) + sample.value
            elif sample.name in ("xdlm_requests_running", "xdlm_requests_waiting"):
                found["busy"] = found.get("busy", 0) + sample.value
            elif sample.name == "xdlm_request_failure_total":
                found[sample.labels["code"]] = sample.value
    return found


async def idle_counters(session: aiohttp.ClientSession) -> dict[str, float]:
    """The counters once no request runs or waits, so that cancelled requests do not reach into the
    next cell; after ``IDLE_SECONDS`` in any case.
    """
    ends = time.monotonic() + IDLE_SECONDS
    while (found := await counters(session)).pop("busy", 0) and time.monotonic() < ends:
        await asyncio.sleep(0.05)
    return found


async def environment(
    session: aiohttp.ClientSession, model: dict[str, Any], weights: Path | None
) -> dict[str, Any]:
    """Conditions of a run besides its plan: server, checkpoint, client, machine.

    ``weights`` is the file or folder that the user says is served; its SHA-256 is recorded.
    """
    return {
        "server": await json_of(session, "/version"),
        "model": {k: v for k, v in model.items() if k != "created"},
        "checkpoint_sha256": sha256(weights) if weights else None,
        "client": {
            "commit": _commit(),
            "python": platform.python_version(),
            "aiohttp": aiohttp.__version__,
            "machine": platform.machine(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.release()}",
            "load_average": os.getloadavg(),
        },
    }


def sha256(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of all safetensors files of a folder."""
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        if path.is_dir():
            digest.update(file.name.encode())
        with file.open("rb") as opened:
            while block := opened.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _commit() -> str | None:
    """Commit of the load test's code, with a plus if tracked files differ; None outside git."""
    here = Path(__file__).parent
    outputs = []
    for command in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no")):
        run = subprocess.run(["git", *command], cwd=here, capture_output=True, text=True)
        if run.returncode:
            return None
        outputs.append(run.stdout.strip())
    return outputs[0] + ("+" if outputs[1] else "")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return found.group(1) if found else platform.processor()


def _wait_for(url: str, server: subprocess.Popen[str]) -> None:
    """Wait until the server listens, which is shortly after it prints its address."""
    ends = time.monotonic() + START_SECONDS
    while True:
        try:
            with socket.create_connection((urlsplit(url).hostname, urlsplit(url).port)):
                return
        except ConnectionError:
            if server.poll() is not None or time.monotonic() > ends:
                raise Unsuitable(f"the server that was started does not listen at {url}") from None
            time.sleep(0.05)


@contextmanager
def own_server(checkpoints: list[str]) -> Iterator[str]:
    """Run ``xdlm serve`` on a free port of this machine while the block runs; yields its address.

    Raises:
        Unsuitable: the server did not start.
    """
    command = [sys.executable, "-m", "server", "serve", *checkpoints, "--port", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, **pipes) as server:
        try:
            assert server.stdout is not None
            found = None
            while found is None and (line := server.stdout.readline()):
                found = re.search(r"http://127\.0\.0\.1:\d+", line)
            if found is None:
                raise Unsuitable(f"xdlm serve {' '.join(checkpoints)} did not start")
            _wait_for(found.group(), server)
            yield found.group()
        finally:
            server.terminate()
