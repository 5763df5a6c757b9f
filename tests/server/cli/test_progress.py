"""Progress of long work on stderr: bars on a terminal, lines elsewhere, nothing for short work."""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from models.checkpoints.convert import convert
from models.checkpoints.load import load_checkpoint
from models.checkpoints.random_init import parse_shape, write_random
from models.progress import Progress, Work
from server.cli.progress import ShownProgress
from server.engine.factory import WARM_UP_STEPS, warm_up
from tests.support.processes import xdlm

DOWNLOAD = Work("org/name", "downloading", "downloaded", 4_000_000, have=1_000_000, brief=False)
LOAD = Work("big", "loading", "loaded", 4_000_000)


class Written(StringIO):
    """A stream, and a way to wait for what is written to it."""

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + 30
        while text not in self.getvalue():
            assert time.monotonic() < deadline, self.getvalue()
            time.sleep(0.005)


def lines(out: Written) -> ShownProgress:
    return ShownProgress(Console(file=out, highlight=False, width=200), seconds=0.01)


def bars(out: Written, patience: float = 0.0) -> ShownProgress:
    console = Console(
        file=out, force_terminal=True, force_interactive=True, width=100, highlight=False
    )
    return ShownProgress(console, patience=patience)


def test_progress_without_a_terminal_is_a_line_every_few_seconds():
    out = Written()
    shown = lines(out)
    with shown.of(DOWNLOAD):
        shown.advance(1_000_000)
        out.wait_for("(50%)")
        out.wait_for("\n")
        shown.advance(2_000_000)
    told = out.getvalue().splitlines()
    line = r"xdlm: org/name: downloading: 2\.0 MB of 4\.0 MB \(50%\), \d+\.\d\d? [kMG]?B/s"
    assert any(re.fullmatch(line, each) for each in told), told
    assert re.fullmatch(r"xdlm: org/name: downloaded: 4\.0 MB of 4\.0 MB, \d+\.\d s", told[-1]), (
        told
    )


def test_work_that_fails_is_shown_as_interrupted():
    out = Written()
    shown = lines(out)
    with pytest.raises(KeyboardInterrupt), shown.of(DOWNLOAD):
        raise KeyboardInterrupt
    assert "org/name: interrupted: 1.0 MB of 4.0 MB" in out.getvalue().splitlines()[-1]


def test_work_of_unknown_size_is_shown_by_its_seconds():
    out = Written()
    shown = lines(out)
    with shown.of(Work("cluster", "starting", "started")):
        out.wait_for("xdlm: cluster: starting: 0 s\n")
    assert re.search(r"xdlm: cluster: started: 0\.\d s\n$", out.getvalue())


def test_counted_work_says_its_unit():
    out = Written()
    shown = lines(out)
    with shown.of(Work("m", "warming up", "warmed up", 2, "steps")):
        shown.advance()
        out.wait_for("xdlm: m: warming up: 1 of 2 steps (50%), 0 s\n")


def test_progress_on_a_terminal_is_a_bar():
    out = Written()
    shown = bars(out)
    with shown.of(DOWNLOAD):
        shown.advance(3_000_000)
        out.wait_for("4.0/4.0 MB")
    assert "━" in out.getvalue() and "downloaded: 4.0 MB of 4.0 MB" in out.getvalue()


@pytest.mark.parametrize("work", [LOAD, Work("m", "a", "b", 3, "steps"), Work("m", "a", "b")])
def test_each_kind_of_work_has_a_bar(work):
    out = Written()
    shown = bars(out)
    with shown.of(work):
        out.wait_for(f"{work.name}: {work.doing}")


@pytest.mark.parametrize(
    "made", [lambda out: ShownProgress(Console(file=out)), lambda o: bars(o, 9)]
)
def test_brief_work_that_ends_soon_shows_nothing(made: Callable[[Written], ShownProgress]):
    out = Written()
    shown = made(out)
    with shown.of(LOAD):
        shown.advance(4_000_000)
    assert not out.getvalue()


def test_no_thread_is_left_when_work_has_ended():
    for shown in (lines(Written()), bars(Written())):
        with shown.of(LOAD):
            assert "xdlm-progress" in {each.name for each in threading.enumerate()}
        assert "xdlm-progress" not in {each.name for each in threading.enumerate()}


@dataclass
class Seen(Progress):
    """Notes the works and how far each came."""

    works: list[tuple[Work, int, bool]]
    have: int = 0

    def begin(self, work: Work) -> None:
        self.work, self.have = work, work.have

    def advance(self, count: int = 1) -> None:
        self.have += count

    def end(self, whole: bool) -> None:
        self.works.append((self.work, self.have, whole))


@pytest.mark.parametrize("family", ["llada", "llada_moe", "dit"])
def test_writing_converting_loading_and_warming_up_advance_to_their_ends(tmp_path, family):
    seen = Seen([])
    shape = parse_shape("tiny", family, None)
    made, converted = tmp_path / "made", tmp_path / "converted"
    write_random(made, shape, family=family, dtype=torch.float32, progress=seen)
    convert(made, converted, mixing_ratio=0.1, progress=seen)
    warm_up(load_checkpoint(converted, progress=seen), seen)
    assert [(work.name, work.done) for work, _, _ in seen.works] == [
        *(("made", "written"), ("made", "converted")),
        *(("converted", "loaded"), ("converted", "warmed up")),
    ]
    for work, have, whole in seen.works:
        assert whole and have == work.total > 0, (work, have)
    assert seen.works[-1][1] == WARM_UP_STEPS
    size = (made / "model.safetensors").stat().st_size
    assert size * 0.9 < seen.works[0][1] < size


def test_a_conversion_that_fails_is_interrupted(tmp_path):
    write_random(tmp_path / "made", parse_shape("tiny"), dtype=torch.float32)
    weights = tmp_path / "made" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-4:] = b"\x00\x00\xc0\x7f"  # not a number
    weights.write_bytes(content)
    seen = Seen([])
    with pytest.raises(Exception, match="not finite"):
        convert(tmp_path / "made", tmp_path / "out", mixing_ratio=0.1, progress=seen)
    ((work, have, whole),) = seen.works
    assert not whole and have < work.total


def test_short_commands_show_no_progress(tiny_folder: Path, tmp_path: Path):
    shutil.copytree(tiny_folder, tmp_path / "m")
    for args in (
        ("make-random", "made"),
        ("convert", "m", "out", "--mixing-ratio", "0.1"),
        ("generate", "Tom", "--checkpoint", "m", "--max-tokens", "4", "--steps", "1"),
    ):
        done = xdlm(*args, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "xdlm:" not in done.stderr
