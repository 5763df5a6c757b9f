"""Options and fixtures of all tests: golden vectors, thoroughness."""

from __future__ import annotations

import gc
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from torch import Tensor

from tests.support import effort

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--thorough", action="store_true", help="more examples; see support/effort.py")


def pytest_configure(config: pytest.Config) -> None:
    effort.THOROUGH = config.getoption("thorough")


def pytest_collection_finish() -> None:
    """Modules and tests live to the end: a collection of garbage need not walk them."""
    gc.collect()
    gc.freeze()


@dataclass(frozen=True)
class Golden:
    """Tensors and metadata of one golden file, made by running the official code."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]

    def cases(self) -> list[tuple[dict[str, Any], dict[str, Tensor]]]:
        """(case metadata, its tensors by short name) for files that hold several cases."""
        found = []
        for name, case in self.meta["cases"].items():
            prefix = f"{name}."
            found.append(
                (
                    case,
                    {k[len(prefix) :]: t for k, t in self.tensors.items() if k.startswith(prefix)},
                )
            )
        return found


def load_golden(name: str) -> Golden:
    with safe_open(str(GOLDEN / f"{name}.safetensors"), "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        meta = {
            key: json.loads(value) if value[:1] in "[{" else value
            for key, value in (file.metadata() or {}).items()
        }
    return Golden(tensors, meta)


@pytest.fixture(scope="session")
def golden():
    """``golden(name)`` loads one file of tests/golden."""
    return load_golden
