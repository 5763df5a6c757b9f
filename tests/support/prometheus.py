"""Expressions of the dashboards and rules, and what they need."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from tests.support.paths import ROOT

KINDS = (
    ("/v1/completions", {"prompt": "Tom", "max_tokens": 8, "steps": 4}),
    ("/v1/completions", {"prompt": "Tom", "max_tokens": 8, "steps": 4, "stream": True}),
    ("/v1/completions", {"prompt": "Tom", "max_tokens": 8, "steps": 4, "trajectory": "delta"}),
    ("/v1/completions", {"prompt": "Tom", "steps": 8, "sampler": "topk", "stream": True}),
    ("/v1/images/generations", {"model": "digits", "prompt": "7", "steps": 4}),
    ("/v1/diffusion/trajectories", {"prompt": "Tom", "max_tokens": 8, "steps": 4}),
    ("/v1/score", {"text": "Tom", "samples": 4}),
    ("/v1/completions", {"prompt": "Tom", "max_tokens": -1}),
)

DEPLOY = ROOT / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
RULES = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())["groups"]


def expressions() -> Iterator[tuple[str, str, bool]]:
    """Name, PromQL, and whether it always has an answer: alerts have one when they fire."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            text = target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*")
            yield f"{panel['title']}, {target['legendFormat']}", text, True
    for rule in (rule for group in RULES for rule in group["rules"]):
        yield rule["alert"], rule["expr"], False


EXPRESSIONS = {name: (text, answers) for name, text, answers in expressions()}


@contextmanager
def scraped(port: int, work: Path, key: str = "") -> Iterator[str]:
    """A Prometheus with our rules that has scraped a server for some seconds."""
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (job,) = config["scrape_configs"]
    job["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
    if key:
        job["authorization"] = {"credentials": key}
    (work / "prometheus.yaml").write_text(yaml.safe_dump(config))
    shutil.copy(DEPLOY / "prometheus" / "alerts.yaml", work)
    with socket.create_server(("127.0.0.1", 0)) as free:
        own = free.getsockname()[1]
    program = [
        *("prometheus", f"--config.file={work / 'prometheus.yaml'}"),
        *(f"--storage.tsdb.path={work / 'data'}", f"--web.listen-address=127.0.0.1:{own}"),
    ]
    with open(work / "log", "w") as log:
        process = subprocess.Popen(program, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{own}"
    try:
        until = time.monotonic() + 60
        while not asked(url, 'count_over_time(up{job="xdlm"}[1m]) >= 5'):
            assert time.monotonic() < until and process.poll() is None, (work / "log").read_text()
            time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def asked(url: str, expression: str) -> list:
    query = urllib.parse.urlencode({"query": expression})
    try:
        with urllib.request.urlopen(f"{url}/api/v1/query?{query}") as response:
            return json.load(response)["data"]["result"]
    except urllib.error.HTTPError as error:
        raise AssertionError(error.read()) from None
    except urllib.error.URLError:  # it does not listen yet
        return []
