"""Prompts of a run: read from a file, or the defaults."""

from __future__ import annotations

from pathlib import Path

import orjson

from loadtest.errors import Refusal
from loadtest.files import text_of

OPENINGS = (
    "Once upon a time",
    "One day, a little girl named Lily",
    "Tom and his dog were playing in the park when",
    "There was a big tree in the garden, and",
    "The little cat was hungry. She",
    "Mia found a shiny key under her bed.",
    "It was raining, so Ben and Anna",
    "A small bird could not fly because",
    "Grandma baked a cake, but",
    "In the forest there lived a bear who",
    "Sam lost his red ball at the beach.",
    "The moon was bright, and the rabbit",
    "Lucy wanted to help her mother, so",
    "Jack had a toy car that",
    "The old man gave the boy a magic stone.",
    "Every morning, the farmer",
)
"""Openings of children's stories, the kind of text of the bundled checkpoint."""

MOST = 10_000


def read(path: Path) -> tuple[str, ...]:
    """Prompts of a text file, one a line, or of a JSONL file (strings, or objects with ``prompt``).

    Raises:
        Refusal: the file is not UTF-8, has none or too many, or a line is not a prompt.
    """
    lines = [line for line in text_of(path).splitlines() if line.strip()]
    if not 0 < len(lines) <= MOST:
        raise Refusal(f"{path} has {len(lines)} prompts; 1 to {MOST} are supported")
    if path.suffix != ".jsonl":
        return tuple(lines)
    found = []
    for number, line in enumerate(lines, 1):
        try:
            entry = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise Refusal(f"{path}, line {number}: {error}") from None
        prompt = entry.get("prompt") if isinstance(entry, dict) else entry
        if not isinstance(prompt, str):
            raise Refusal(f"{path}, line {number} has no prompt")
        found.append(prompt)
    return tuple(found)
