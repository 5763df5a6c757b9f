"""What a server tells about itself, and a server of one's own to ask."""

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
    """The server does not do what was asked for; the message says what."""


async def json_of(session: aiohttp.ClientSession, path: str) -> Any:
    """The JSON of a GET, or None where there is no such route."""
    async with session.get(path) as response:
        return await response.json() if response.status == 200 else None


async def choose_model(
    session: aiohttp.ClientSession, wanted: str | None, images: bool
) -> dict[str, Any]:
    """The entry of ``/v1/models`` that the run is about.

    Raises:
        Unsuitable: there is none of the name, or none that does what is asked of it.
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
    """The server's own counts of requests; empty where it has no such metrics.

    ``busy``: requests that run or wait now. ``ended``: requests whose denoising came to its end.
    ``ok``: texts that were handed over. Then failures, by code.
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
    """The same once nothing runs or waits: what clients gave up must not go on in the next cell.
    Some other client's requests are waited for too, but not for ever.
    """
    ends = time.monotonic() + IDLE_SECONDS
    while (found := await counters(session)).pop("busy", 0) and time.monotonic() < ends:
        await asyncio.sleep(0.05)
    return found


async def environment(
    session: aiohttp.ClientSession, model: dict[str, Any], weights: Path | None
) -> dict[str, Any]:
    """What a figure depends on beside the plan: server, checkpoint, client, machine.

    ``weights`` is a file or a folder that the user says is being served: its SHA-256 is kept.
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
    """Of a file, or of the names and contents of all safetensors of a folder."""
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
    """Of the load tester, with a plus where its tree was changed; None outside a repository."""
    here = Path(__file__).parent
    told = []
    for command in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no")):
        run = subprocess.run(["git", *command], cwd=here, capture_output=True, text=True)
        if run.returncode:
            return None
        told.append(run.stdout.strip())
    return told[0] + ("+" if told[1] else "")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return found.group(1) if found else platform.processor()


def _wait_for(url: str, server: subprocess.Popen[str]) -> None:
    """Until it listens, some moments after it has said where it will."""
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
    """``xdlm serve`` in a process of its own, on a free port of this machine; its address.

    Raises:
        Unsuitable: it did not start.
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
