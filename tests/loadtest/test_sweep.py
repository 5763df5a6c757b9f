"""A sweep of the real server: what it leaves behind, goes on with, refuses, and counts."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from loadtest.answer_reader import Kind
from loadtest.cli_types import loads
from loadtest.intervals import LEAST_VALUES
from loadtest.measure import Quality, measure
from loadtest.plan import Plan, Setting, Workload
from loadtest.records import GAVE_UP, Folder
from loadtest.sweep import Stale
from tests.loadtest.conftest import Command, Server
from tests.support.effort import count
from tests.support.paths import ROOT


def sweep(server: Server, out: Path, *, kind: Kind = "completions", seconds: float = 100, **chosen):
    """Steps 2 and 6; returns how many cells are left."""
    examples = chosen.pop("examples", None)
    ratios = chosen.pop("mixing_ratios", [None])
    plan = Plan(
        workload=Workload(kind, chosen.pop("model", None), (), 16, chosen.pop("fields", {})),
        settings=tuple(Setting(s, k) for k in ratios for s in (2, 6)),
        loads=loads(chosen.pop("concurrency", None), chosen.pop("rate", None)),
        repeats=chosen.pop("repeats", 1),
        warmup=0.2,
        duration=count(6, 10) / 10,
        drain=30,
        timeout=60,
        max_requests=500,
    )
    assert not chosen
    quality = Quality(4, 4, None, examples)
    quiet = Console(quiet=True)
    work = measure(server.url, plan, Folder(out), quality, None, None, seconds, quiet)
    return asyncio.run(work)


@pytest.fixture(scope="module")
def swept(server, tmp_path_factory) -> Path:
    """A closed loop, two repeats."""
    out = tmp_path_factory.mktemp("swept") / "run"
    assert sweep(server, out, concurrency="1,3", mixing_ratios=[0, 0.1], repeats=2) == 0
    return out


@pytest.mark.slow
def test_what_a_run_leaves_behind(swept):
    header = json.loads((swept / "run.json").read_text())
    assert header["schema"] == 1
    environment = header["environment"]
    assert environment["model"]["id"] == "tiny" and environment["server"]["version"]
    assert environment["model"]["diffusion"]["dtype"] == "float32"
    assert re.fullmatch("[0-9a-f]{40}[+]?", environment["client"]["commit"])
    assert environment["client"]["cores"] > 0
    cells = list(Folder(swept).cells())
    assert len(cells) == 2 * 2 * 2 * 2
    for cell in cells:
        assert [r.failure for r in cell.records if r.failure] == []
        assert cell.summary.seconds == count(6, 10) / 10 and cell.summary.cpu_share > 0
        for r in cell.records:
            assert r.intended <= r.sent <= r.ended and r.warm == (r.intended < 0)
            assert r.text and r.tokens and r.queue_ms is not None and r.denoise_ms
            assert str(r.steps_taken) == cell.name.split("-")[0][1:]
            assert r.first is not None and r.settled is not None and r.sent < r.first
    # the same request has the same text in every cell of its setting, whatever the load
    texts: dict[tuple, set[str]] = {}
    for cell in cells:
        for r in cell.records:
            texts.setdefault((cell.name.split("_")[0], r.seed), set()).add(r.text)
    assert all(len(found) == 1 for found in texts.values()) and len(texts) > 16


@pytest.mark.slow
def test_answers_are_judged_by_setting_on_the_same_seeds(swept):
    rows = Folder(swept).quality()
    by_setting: dict[str, list] = {}
    for row in rows:
        by_setting.setdefault(row["setting"], []).append(row["seed"])
        assert row["nats"] > 0 and row["count"] > 0 and row["unit"] == "token"
        assert 0 <= row["repetition"] <= 1 and row["entropy"] >= 0
    assert len(by_setting) == 4
    most = max(by_setting.values(), key=len)  # on a busy machine slow settings have fewer
    assert all(seeds == most[: len(seeds)] for seeds in by_setting.values())


@pytest.mark.slow
def test_the_report_needs_nothing_else(swept, command: Command, tmp_path):
    told = command("report", swept, "--pictures", tmp_path, "--slo", "p95=20s")
    assert "6 steps" in told and "hold p95 ≤ 20 s" in told
    page = (swept / "report.html").read_text()
    assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="?http', page)
    assert "p95 ≤ 20 s" in page and page.count("<svg ") >= 6
    for name in ("pareto", "heat", "rates", "knees", "latencies", "phases"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert min(picture.size) > 500


def test_a_rerun_goes_on(server, tmp_path):
    sweep(server, tmp_path, rate="8")
    files = sorted((tmp_path / "cells").iterdir())
    assert [file.name for file in files] == ["s2_r8_0.jsonl", "s6_r8_0.jsonl"]
    before = [file.read_bytes() for file in files]
    judged = (tmp_path / "quality.jsonl").read_bytes()
    files[0].unlink()
    sweep(server, tmp_path, rate="8")
    after = [file.read_bytes() for file in files]
    assert after[1] == before[1] and after[0] != before[0]
    assert (tmp_path / "quality.jsonl").read_bytes() == judged
    with pytest.raises(Stale, match="another plan"):
        sweep(server, tmp_path, rate="9")
    header = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**header, "schema": 99}))
    with pytest.raises(ValueError, match="schema 99"):
        sweep(server, tmp_path, rate="8")
    header["environment"]["model"]["diffusion"]["parameters"] = 1
    (tmp_path / "run.json").write_text(json.dumps(header))
    with pytest.raises(Stale, match="another server"):
        sweep(server, tmp_path, rate="8")


@pytest.mark.slow
def test_time_runs_out_between_cells(server, tmp_path, command: Command):
    left = sweep(server, tmp_path, rate="5", repeats=5, seconds=2)
    assert 6 < left < 10
    assert f"{left} cells of the plan have not been run" in command("report", tmp_path)
    assert not (tmp_path / "quality.jsonl").exists()


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("completions", {"trajectory": "delta"}),
        pytest.param("chat", {}, marks=pytest.mark.slow),
        pytest.param("trajectories", {}, marks=pytest.mark.slow),
        pytest.param("images", {"partial_images": 1}, marks=pytest.mark.slow),
    ],
)
def test_nothing_is_lost(server, tmp_path, command: Command, kind, fields):
    """Client, log and counters agree: with all well, and with a queue that overflows."""
    sweep(server, tmp_path / "well", kind=kind, concurrency="3", rate="15", fields=fields)
    sent = sum(len(cell.records) for cell in Folder(tmp_path / "well").cells())
    told = command("ledger", tmp_path / "well", server.log)
    assert f"{sent} sent, {sent} in the log, 0 lost" in told and "every cell agree" in told
    sweep(server, tmp_path / "over", kind=kind, concurrency="100", fields=fields)
    cells = list(Folder(tmp_path / "over").cells())
    failures = [r.failure for cell in cells for r in cell.records if r.failure]
    refused = [failure for failure in failures if failure != GAVE_UP]
    assert set(refused) == {"HTTP 429 queue_full"} and len(refused) > 10
    told = command("ledger", tmp_path / "over", server.log)
    assert ", 0 lost" in told and "every cell agree" in told
    assert sum(cell.summary.server["queue_full"] for cell in cells) == len(refused)


def test_the_ledger_finds_what_is_lost(server, tmp_path, command: Command):
    sweep(server, tmp_path / "run", concurrency="2")
    log, run = tmp_path / "log", json.loads((tmp_path / "run" / "run.json").read_text())["run"]
    lines = [line for line in server.log.read_text().splitlines() if run in line]
    lines[0] = lines[0].replace('"status": 200', '"status": 500')
    lines[1] = lines[2]
    log.write_text("no JSON\n[]\n" + "\n".join(lines))
    told = command("ledger", tmp_path / "run", log, code=1)
    assert ", 1 lost" in told and "missing: " in told and "twice: " in told and "unlike: " in told
    (file,) = (tmp_path / "run" / "cells").glob("s6*")
    file.write_text("\n".join(file.read_text().splitlines()[1:]))
    assert "the server counts" in command("ledger", tmp_path / "run", server.log, code=1)
    assert "Client and server count differently" in command("report", tmp_path / "run")


@pytest.mark.slow
def test_images_are_judged_by_a_classifier(server, tmp_path, command: Command):
    """Ten flat greys teach it nothing about digits, but it must answer for each image."""
    greys = np.arange(10).repeat(12 * 12).reshape(10, 12, 12).astype(np.uint8) * 25
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    examples = tmp_path / "examples.npz"
    np.savez(examples, images=greys, labels=np.arange(10), names=np.array(names))
    sweep(server, tmp_path / "run", kind="images", concurrency="2", examples=examples)
    rows = Folder(tmp_path / "run").quality()
    assert len(rows) >= 4 and all(row["right"] in (True, False) for row in rows)
    assert {row["seen"] for row in rows} <= set(names)
    command("report", tmp_path / "run")
    table = (tmp_path / "run" / "report.html").read_text().split("Quality by step count")[1]
    judged = Counter(row["setting"] for row in rows)  # on a busy machine fewer than four each
    enough = sum(count >= LEAST_VALUES for count in judged.values())
    assert len(re.findall(r"<td class=\"\">\d+\.\d \(\d+\.\d–\d+\.\d\)</td>", table)) == enough
    assert len(re.findall(r"<td class=\"\">\d+\.\d</td>", table)) == len(judged) - enough


@pytest.mark.slow
def test_two_runs_side_by_side(swept, server, tmp_path, command: Command):
    sweep(server, tmp_path / "run", concurrency="1,3", mixing_ratios=[0.1])
    command("compare", swept, tmp_path / "run", "--out", tmp_path / "both")
    page = (tmp_path / "both" / "compare.html").read_text()
    assert page.count("ratio</th>") == 2 and page.count("1 at a time</td>") == 2
    assert (tmp_path / "both" / "compare.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--rate", "1"), "--url ADDRESS"),
        (("--rate", "1", "--url", "http://127.0.0.1:1", "--serve", "stories"), "give one of"),
        (("--rate", "1", "--url", "127.0.0.1:8000"), "does not name a host"),
        (("--rate", "1", "--url", "http://0.0.0.0:8000"), "does not name a host"),
        (("--rate", "1", "--url", "http://127.0.0.1:8000/v1"), "has a path"),
        (("--rate", "1", "--url", "http://127.0.0.1:1"), "no server at"),
        (("--url", "http://127.0.0.1:1"), "no load is given"),
        (("--concurrency", "1,1", "--url", "http://127.0.0.1:1"), "twice"),
        (("--concurrency", "0", "--url", "http://127.0.0.1:1"), "not from 1"),
        (("--rate", "fast", "--url", "http://127.0.0.1:1"), "numbers"),
        (("--rate", "1", "--slo", "p95", "--url", "http://127.0.0.1:1"), "p95=500ms"),
        (("--rate", "1", "--duration", "soon", "--url", "http://127.0.0.1:1"), "not a duration"),
        (("--rate", "1", "--kind", "poems", "--url", "http://127.0.0.1:1"), "choose from"),
        (("--rate", "1", "--field", "x", "--url", "http://127.0.0.1:1"), "name=value"),
        (("--rate", "1", "--prompts", "none.txt", "--url", "http://127.0.0.1:1"), "No such file"),
    ],
)
def test_refusals_are_one_line(command: Command, tmp_path, args, words):
    told = command("sweep", "--out", tmp_path / "run", *args, code=2)
    assert words in told and "Traceback" not in told


def test_models_are_chosen_by_what_they_do(server, tmp_path, command: Command):
    args = ("sweep", "--url", server.url, "--out", tmp_path / "run", "--rate", "1", "--model")
    assert "tiny, digits" in command(*args, "gpt", code=2)
    assert "no model for text" in command(*args, "digits", code=2)


@pytest.mark.slow
def test_one_command_with_a_server_of_its_own(command: Command, tmp_path):
    """A short run of the command of ``make loadtest``."""
    told = command("smoke", "--seconds", 4, "--out", tmp_path / "run")
    assert " ok, 0 failed" in told and (tmp_path / "run" / "report.html").exists()
    assert "needs an empty folder" in command(
        "smoke", "--url", "http://x", "--out", tmp_path / "run", code=2
    )


def test_what_to_install_is_said_in_a_line():
    """Without site-packages there is no extra."""
    done = subprocess.run(
        [sys.executable, "-S", "-m", "loadtest.cli", "smoke"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "needs aiohttp" in done.stderr and "'.[loadtest]'" in done.stderr
