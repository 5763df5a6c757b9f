"""The dashboard and the alert rules against what a real server exports."""

from __future__ import annotations

import json
import re
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

import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from models.checkpoints.load import find_checkpoint, load_checkpoint
from server.engine.factory import engine_of
from server.engine.metrics import Metrics
from tests.server.conftest import run_server, settings_of
from tests.server.test_http import call
from tests.test_layout import ROOT

DEPLOY = ROOT / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
RULES = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())["groups"]
GIVEN = {"up": {"job", "instance"}}
"""What Prometheus adds by itself."""
REPLICA = "replica"
"""What a cluster adds to every sample; of a single server it is as good as empty."""
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


def expressions() -> Iterator[tuple[str, str, bool]]:
    """Name, PromQL, and whether it always has an answer: alerts have one when they fire."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            text = target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*")
            yield f"{panel['title']}, {target['legendFormat']}", text, True
    for rule in (rule for group in RULES for rule in group["rules"]):
        yield rule["alert"], rule["expr"], False


EXPRESSIONS = {name: (text, answers) for name, text, answers in expressions()}


@pytest.fixture(scope="module")
def busy(tiny) -> Iterator[int]:
    """The port of a server of texts and images that has answered every kind of request."""
    metrics, settings = Metrics(), settings_of()
    digits = load_checkpoint(find_checkpoint("digits"))
    engines = [engine_of(loaded, settings, metrics) for loaded in (tiny, digits)]
    for served in run_server(engines[0], settings, engines[1]):
        for route, body in KINDS:
            response, text = call(served, "POST", route, body)
            assert response.status in (200, 400), text
        yield served.port


@pytest.fixture(scope="module")
def exported(busy) -> dict[str, set[str]]:
    """Series of a scrape, and their labels with those that Prometheus adds."""
    with urllib.request.urlopen(f"http://127.0.0.1:{busy}/metrics") as response:
        families = list(text_string_to_metric_families(response.read().decode()))
    found: dict[str, set[str]] = {}
    for sample in (sample for family in families for sample in family.samples):
        found.setdefault(sample.name, {"job", "instance"}).update(sample.labels)
    return found


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_what_is_asked_for_is_exported(exported, name):
    known, asked = {**exported, **GIVEN}, set()
    tree = promql_parser.parse(EXPRESSIONS[name][0])
    for selector in selectors(tree):
        assert selector.name in known, f"{selector.name} is not exported"
        asked.add(selector.name)
        for matcher in selector.matchers.matchers:
            assert matcher.name in known[selector.name], matcher.name
    assert asked
    labels = {REPLICA}.union(*(known[metric] for metric in asked))
    grouped = re.findall(r"\b(?:by|on) \(([^)]*)\)", EXPRESSIONS[name][0])
    assert {label.strip() for part in grouped for label in part.split(",")} <= labels


def selectors(tree: promql_parser.Expr) -> list[promql_parser.VectorSelector]:
    """Every metric that an expression reads."""
    found: list[promql_parser.VectorSelector] = []

    def visit(part: promql_parser.Expr) -> None:
        if isinstance(part, promql_parser.MatrixSelector):
            found.append(part.vector_selector)
        elif isinstance(part, promql_parser.VectorSelector):
            found.append(part)

    promql_parser.walk(tree, visit)
    return found


def test_every_metric_is_looked_at_or_is_a_part_of_one_that_is(exported):
    trees = [promql_parser.parse(text) for text, _ in EXPRESSIONS.values()]
    asked = {selector.name or "" for tree in trees for selector in selectors(tree)}

    def family(name: str) -> str:
        return re.sub(r"_(bucket|sum|count|total|created|info)$", "", name)

    ours = {family(name) for name in exported if name.startswith("xdlm_")}
    assert ours == {family(name) for name in asked if name.startswith("xdlm_")}


def test_every_alert_is_in_the_runbook():
    page = (DEPLOY.parent / "docs" / "operations.md").read_text()
    for group in RULES:
        for rule in group["rules"]:
            assert f"`{rule['alert']}`" in page


@pytest.mark.skipif(not shutil.which("promtool"), reason="needs promtool")
def test_promtool_takes_rules_and_configuration():
    for what, name in (("rules", "alerts.yaml"), ("config", "prometheus.yaml")):
        judged = subprocess.run(
            ["promtool", "check", what, DEPLOY / "prometheus" / name],
            capture_output=True,
            text=True,
        )
        assert judged.returncode == 0, judged.stderr


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


@pytest.mark.skipif(not shutil.which("prometheus"), reason="needs Prometheus")
def test_every_query_has_an_answer_in_prometheus(busy, tmp_path):
    with scraped(busy, tmp_path) as prometheus:
        for name, (text, answers) in EXPRESSIONS.items():
            found = asked(prometheus, text)
            assert found if answers else not found, f"{name}: {text}: {found}"
