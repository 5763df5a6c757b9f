"""The import graph of the project's packages, read from their sources."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from tests.support.paths import ROOT

Graph = Mapping[str, set[str]]


def modules(package: str) -> list[Path]:
    """All modules of a package."""
    return [*(ROOT / package).rglob("*.py")]


@cache
def imports(path: Path) -> AbstractSet[str]:
    """Top-level names of all modules that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add((node.module or "").split(".")[0])
    return found


def sources(*packages: str) -> dict[str, Path]:
    """Files of all modules of some packages, by dotted name."""
    found = {}
    for package in packages:
        for path in modules(package):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def graph(files: Mapping[str, Path]) -> dict[str, set[str]]:
    """Modules that each module imports, also inside functions; not for type checking alone."""
    return {name: set(_imported(path, files)) - {name} for name, path in files.items()}


def _imported(path: Path, files: Mapping[str, Path]) -> Iterable[str]:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):  # an import for type checking is never run
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in files)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in files:
                    yield inner
                elif node.module and node.module in files:
                    yield node.module


def circle(imports: Graph) -> list[str]:
    """Modules that import each other in a circle, the first found; empty where there is none."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def floor(module: str, floors: list[tuple[str, ...]]) -> int:
    """Index of a module's floor. ``a.b`` names one module, ``a.b.*`` that and all below it;
    a module's own name decides, else the longest that fits.
    """
    fits = [
        (module == name, len(name), i)
        for i, names in enumerate(floors)
        for name in names
        if module == name or (name.endswith(".*") and f"{module}.".startswith(name[:-1]))
    ]
    assert fits, f"{module} has no floor"
    return max(fits)[2]


def upward(imports: Graph, floors: list[tuple[str, ...]]) -> set[tuple[str, str]]:
    """Imports (importing, imported) of a higher floor; the first floor is the highest."""
    return {
        (module, other)
        for module, others in imports.items()
        for other in others
        if floor(other, floors) < floor(module, floors)
    }
