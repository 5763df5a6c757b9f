"""The dashboard and the alert rules against what a real server exports."""

from __future__ import annotations

import re
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator

import promql_parser
import pytest
from prometheus_client.parser import text_string_to_metric_families

from models.checkpoints.load import find_checkpoint, load_checkpoint
from server.engine.factory import engine_of
from server.engine.metrics import Metrics
from tests.support.http import call
from tests.support.prometheus import DEPLOY, EXPRESSIONS, KINDS, RULES, asked, scraped
from tests.support.serving import run_server, settings_of

GIVEN = {"up": {"job", "instance"}}
"""Labels that Prometheus adds by itself."""
REPLICA = "replica"
"""The label that a cluster adds to every sample; a single server has none."""


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


@pytest.mark.skipif(not shutil.which("prometheus"), reason="needs Prometheus")
def test_every_query_has_an_answer_in_prometheus(busy, tmp_path):
    with scraped(busy, tmp_path) as prometheus:
        for name, (text, answers) in EXPRESSIONS.items():
            found = asked(prometheus, text)
            assert found if answers else not found, f"{name}: {text}: {found}"
