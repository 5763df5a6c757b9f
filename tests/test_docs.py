"""The documentation agrees with the repository: paths, links, fault rows, settings."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path

import pytest

from server.config import Settings

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")], key=lambda page: page.as_posix()
)
ROOMS = (
    "server",
    "sampler",
    "models",
    "fusion",
    "loadtest",
    "tests",
    "docs",
    "benchmarks",
    "recipes",
)
PATH = re.compile(rf"(?:{'|'.join(ROOMS)})/[\w./-]+")


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def rows_of(text: str) -> list[list[str]]:
    """Cells of all table rows of a page."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|") and not line.startswith("|---")
    ]


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_of_a_page_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{named(page)}: {target}"
        assert not anchor or anchor in anchors(found), f"{named(page)}: {target}"


@pytest.mark.parametrize(
    "page", [*(ROOT / "docs").rglob("*.md"), ROOT / "CONTRIBUTING.md"], ids=named
)
def test_paths_that_a_page_names_exist(page):
    for quoted in re.findall(r"`([^`\n]+)`", page.read_text()):
        if PATH.fullmatch(quoted):
            assert (ROOT / quoted).exists(), f"{named(page)}: {quoted}"


def test_architecture_answers_five_questions_with_paths():
    rows = rows_of((ROOT / "docs" / "architecture.md").read_text())
    answers = [row for row in rows if row[0].startswith("Where ")]
    assert len(answers) == 5
    for question, answer in answers:
        assert PATH.search(answer), question


def test_drawings_of_architecture_name_paths_that_exist():
    drawings = re.findall(
        r"```\n(.*?)```", (ROOT / "docs" / "architecture.md").read_text(), re.DOTALL
    )
    paths = {path for drawing in drawings for path in PATH.findall(drawing)}
    assert len(paths) > 10
    assert not [path for path in paths if not (ROOT / path).exists()]


def test_equations_of_the_paper_are_where_samplers_says():
    table = (ROOT / "docs" / "samplers.md").read_text().partition("| equation | name |")[2]
    names = [row[1].strip("`") for row in rows_of(table.partition("\n\n")[0])]
    assert len(names) >= 9
    for name in names:
        pkgutil.resolve_name(name)


def test_every_fault_row_has_a_test_of_its_number():
    rows = [r for r in rows_of((ROOT / "docs" / "faults.md").read_text()) if r[0].isdigit()]
    assert [int(row[0]) for row in rows] == list(range(1, len(rows) + 1))
    for number, *_, files in rows:
        sources = "".join((ROOT / file).read_text() for file in re.findall(r"`([^`]+)`", files))
        numbers = re.findall(r"def test_rows?_([0-9_]+(?:and_\d+)?)", sources)
        found = {int(n) for group in numbers for n in re.findall(r"\d+", group)}
        assert int(number) in found or f"test_{number}_" in files, f"row {number}"


def test_every_test_of_a_fault_row_has_its_row():
    text = (ROOT / "docs" / "faults.md").read_text()
    for file in (ROOT / "tests" / "faults").glob("test_*.py"):
        assert f"`tests/faults/{file.name}`" in text, file.name


def test_settings_of_operations_are_those_of_the_server():
    operations = (ROOT / "docs" / "operations.md").read_text()
    table = operations.partition("| setting | flag | default | what |")[2].partition("\n\n")[0]
    described = {name for row in rows_of(table) for name in re.findall(r"`(\w+)`", row[0])}
    assert described == set(Settings.model_fields)


def test_decisions_are_all_in_their_index():
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text()
    for record in folder.glob("0*.md"):
        assert f"({record.name})" in index, record.name
