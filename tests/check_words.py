"""Looks for turns that ``docs/glossary.md`` bans, and for docstrings that begin with a question
word. ``make words`` runs it as ``python -m tests.check_words``.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
GLOSSARY = ROOT / "docs" / "glossary.md"
READ = ("server", "sampler", "models", "fusion", "loadtest", "docs")
SUFFIXES = {".py", ".md", ".js", ".html", ".css"}
QUESTIONS = {"Who", "Whose", "What", "Those"}


def files() -> list[Path]:
    """Files that are read."""
    found = [p for room in READ for p in (ROOT / room).rglob("*") if p.suffix in SUFFIXES]
    return [*sorted(path for path in found if path != GLOSSARY), ROOT / "README.md"]


def banned() -> dict[str, str]:
    """Turns that are not used, and the usual words, as the glossary lists them."""
    section = GLOSSARY.read_text().partition("## Turns that are not used")[2]
    rows = re.findall(r"^\| (.+?) \| (.+?) \|$", section, re.MULTILINE)
    return dict(rows[1:])


def lines_of(text: str, turn: str) -> list[int]:
    """Lines on which a turn begins, also if it goes on after a line break."""
    words = r"[\s#*/]+".join(map(re.escape, turn.split()))
    found = re.finditer(rf"\b{words}\b", text, re.IGNORECASE)
    return [text.count("\n", 0, match.start()) + 1 for match in found]


def questions(source: str) -> list[tuple[int, str]]:
    """Docstrings, also of constants, that begin with a question word: line, first line."""
    found = [
        (node.lineno, node.value.value.strip())
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    ]
    return sorted(
        (line, doc.splitlines()[0])
        for line, doc in found
        if re.split(r"\W", doc, maxsplit=1)[0] in QUESTIONS
    )


def faults() -> Iterator[str]:
    """Each place with its fault, ready to print."""
    turns = banned()
    for path in files():
        text, name = path.read_text(), path.relative_to(ROOT)
        for turn, usual in turns.items():
            for line in lines_of(text, turn):
                yield f"{name}:{line}: {turn!r}; write: {usual}"
        if path.suffix == ".py":
            for line, doc in questions(text):
                yield f"{name}:{line}: docstring begins with a question word: {doc}"


if __name__ == "__main__":
    found = list(faults())
    print(*found, f"{len(found)} faults in words", sep="\n")
    sys.exit(1 if found else 0)
