"""A ``tokenizer.json`` held against its model before the library builds it: building takes seconds
and gigabytes where a file has millions of pieces.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE_BYTES, BYTES_PER_ID = 4 << 20, 256
"""Published files have up to 140 bytes an id, merges included."""


def check_tokenizer_file(path: Path, vocab_size: int) -> None:
    """Refuse a file with more ids than a model has.

    Args:
        path: of the ``tokenizer.json``.
        vocab_size: ids of the model.

    Raises:
        ValueError: too large, no JSON object, or ids that the model does not have.
    """
    if not path.is_file():
        raise ValueError(f"{path.name} is missing")
    size, most = path.stat().st_size, FILE_BYTES + BYTES_PER_ID * vocab_size
    if size > most:
        raise ValueError(
            f"{path.name} has {size} bytes; for the {vocab_size} ids of the model at most {most}"
        )
    try:
        held = json.loads(path.read_bytes())
    except RecursionError:
        raise ValueError(f"{path.name}: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None
    if not isinstance(held, dict):
        raise ValueError(f"{path.name}: expected a JSON object")
    model, added = held.get("model"), held.get("added_tokens")
    pieces = model.get("vocab") if isinstance(model, dict) else None
    ids = {*_ids(pieces), *_added(added)}
    if ids and (count := max(max(ids) + 1, len(ids))) > vocab_size:
        raise ValueError(f"the tokenizer has {count} ids, the model {vocab_size}")


def _ids(pieces: Any) -> set[int]:
    """Ids of a vocabulary: by piece, or a list in their order."""
    if isinstance(pieces, list):
        return {len(pieces) - 1} if pieces else set()
    if isinstance(pieces, dict):
        return {id_ for id_ in pieces.values() if isinstance(id_, int)}
    return set()


def _added(tokens: Any) -> set[int]:
    listed = tokens if isinstance(tokens, list) else []
    return {t["id"] for t in listed if isinstance(t, dict) and isinstance(t.get("id"), int)}
