"""Write the constraint files of this folder from the installed packages: one for the runtime, and
one for each of the extras ``loadtest``, ``dev``, ``ray`` and ``kernels``, which includes that of
the runtime.

    python constraints/lock.py      # in an environment with all extras; ``make lock`` makes one
"""

from __future__ import annotations

import tomllib
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FOLDER = Path(__file__).parent
EXTRAS = ("loadtest", "dev", "ray", "kernels")
UNPINNED = {"pip", "setuptools", "wheel"}  # each environment brings its own
HEADER = "# Written by make lock from pyproject.toml.\n"
TORCH = "# torch has its plain version: the index decides between CPU and CUDA builds.\n"


def pins(requirements: list[str]) -> set[str]:
    """``name==version`` of the packages that are required, directly or by one another."""
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    pending = [(Requirement(text), "") for text in requirements]
    while pending:
        required, extra = pending.pop()
        if required.marker and not required.marker.evaluate({"extra": extra}):
            continue
        if canonicalize_name(required.name) in UNPINNED:
            continue
        package = distribution(required.name)
        found.add(f"{package.name}=={package.version.partition('+')[0]}")
        for wanted in ("", *required.extras):
            if (key := (canonicalize_name(required.name), wanted)) not in seen:
                seen.add(key)
                pending += [(Requirement(text), wanted) for text in package.requires or ()]
    return found


def write(name: str, head: str, found: set[str]) -> None:
    """Write ``<name>.txt``, sorted by package."""
    lines = "".join(f"{pin}\n" for pin in sorted(found, key=str.lower))
    (FOLDER / f"{name}.txt").write_text(HEADER + head + lines)


def main() -> None:
    """The tracing packages of the extra ``otel`` count as runtime: images have them."""
    project = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    runtime = pins(project["dependencies"] + extras["otel"])
    write("runtime", TORCH, runtime)
    for extra in EXTRAS:
        write(extra, "-c runtime.txt\n", pins(extras[extra]) - runtime)


if __name__ == "__main__":
    main()
