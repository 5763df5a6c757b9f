"""How few ids a text can have: what a tokenizer's file proves about it, without tokenising."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Tokenizer, normalizers, pre_tokenizers

BYTES = frozenset(f"<0x{byte:02X}>" for byte in range(256))
KEEPING = ("ByteLevel", "Metaspace", "Digits")
"""Pre-tokenizers that drop nothing."""


def longest_piece(tokenizer: Tokenizer) -> int | None:
    """Bytes of a text that one id can stand for, at most; None where the file proves nothing.

    It proves something of byte pair encodings that have every byte among their pieces, so that
    nothing is dropped or taken together as unknown, behind steps that make no text shorter. A text
    of n bytes then has at least n / ``longest_piece`` ids.
    """
    ids = tokenizer.get_vocab().values()
    if max(ids, default=0) > 2 * len(ids):
        return None  # to be refused; writing it out would walk through the gaps
    file = json.loads(tokenizer.to_str())
    model, added, before = file["model"], file["added_tokens"], file["pre_tokenizer"]
    if model["type"] != "BPE" or file["truncation"] is not None:
        return None
    if model["continuing_subword_prefix"] or model["end_of_word_suffix"]:
        return None
    if any(token["lstrip"] or token["rstrip"] for token in added):  # takes any number of blanks
        return None
    steps = _steps(file["normalizer"], "normalizers")
    if not all(map(_keeps, steps)) or not all(map(_splits, _steps(before, "pretokenizers"))):
        return None
    vocabulary = model["vocab"].keys()
    longest = max((len(token["content"].encode()) for token in added), default=0)
    if any(step["type"] == "ByteLevel" for step in _steps(before, "pretokenizers")):
        letters = pre_tokenizers.ByteLevel.alphabet()  # each stands for a byte
        whole = vocabulary >= {*letters}
        return max(longest, *map(len, vocabulary)) if whole else None
    if model["byte_fallback"] and vocabulary >= BYTES:
        return max(longest, *(len(piece.encode()) for piece in vocabulary))
    return None


def growth(normalizer: normalizers.Normalizer) -> int:
    """How many times as long a normalizer can make a text of many characters, in bytes."""
    times = 1
    for step in _steps(json.loads(normalizer.__getstate__()), "normalizers"):
        if step["type"] == "Replace":
            size = len(step["pattern"].get("String", "").encode()) or 1
            times *= max(1, -(-len(step["content"].encode()) // size))
    return times


def _steps(step: dict[str, Any] | None, several: str) -> list[dict[str, Any]]:
    """A normalizer or pre-tokenizer as the steps it is made of."""
    if step is None:
        return []
    if step["type"] == "Sequence":
        return [inner for part in step[several] for inner in _steps(part, several)]
    return [step]


def _keeps(normalizer: dict[str, Any]) -> bool:
    """Whether it never makes a text shorter, in bytes."""
    if normalizer["type"] == "Replace":
        pattern = normalizer["pattern"].get("String")
        return bool(pattern) and len(normalizer["content"].encode()) >= len(pattern.encode())
    return normalizer["type"] == "Prepend"


def _splits(step: dict[str, Any]) -> bool:
    """Whether a pre-tokenizer drops nothing of a text."""
    if step["type"] in ("Split", "Punctuation"):
        return step["behavior"] != "Removed"
    return step["type"] in KEEPING
