"""Imports between packages, rooms and modules, and the contents of an installation."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from constraints.lock import EXTRAS, FOLDER, pins
from tests.imports import circle, graph, imports, modules, sources, upward
from tests.support.paths import ROOT

PACKAGES = {"server", "sampler", "models", "fusion", "loadtest"}
MAY_IMPORT = {
    "server": {"server", "sampler", "models"},
    "sampler": {"sampler", "fusion"},
    "models": {"models", "fusion"},
    "fusion": {"fusion"},
    "loadtest": {"loadtest"},
}
OPTIONAL = {"opentelemetry": "otel", "ray": "ray", "flash_attn": "flash", "triton": "kernels"}
"""Imports that need an extra of this project, and which."""
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SAMPLER_NEEDS = {"torch", "jaxtyping", "numpy"}
MODULES = sources(*PACKAGES)
FLOORS: list[tuple[str, ...]] = [
    ("server.__main__",),
    ("server.cli.*",),
    ("server.cluster.*",),
    ("server.api.*",),
    ("server.api.openapi",),
    ("server.api.routes.*",),
    ("server.api.jobs.*",),
    ("server.api.context",),
    ("server.api.schemas.*",),
    ("server.output.*",),
    ("server.constraints.compiler",),
    ("server.engine.*",),
    ("server.trajectories.*",),
    ("server.config", "server.config_file", "server.config_values"),
    ("server.*",),
    ("server.http.*",),
    ("sampler", "sampler.registry"),
    ("sampler.samplers.*", "sampler.likelihood.*"),
    ("sampler.fixed", "sampler.fixed_step", "sampler.graphs"),
    ("sampler.step", "sampler.proposed", "sampler.interface", "sampler.transition"),
    ("sampler.constraints.joint",),
    ("sampler.deadline", "sampler.plan", "sampler.room"),
    ("sampler.logits.*", "sampler.constraints.class_sums"),
    ("sampler.*",),
    (
        "models.checkpoints.load",
        "models.checkpoints.find",
        "models.checkpoints.inspection",
        "models.checkpoints.describe",
        "models.checkpoints.convert",
        "models.checkpoints.formats",
        "models.checkpoints.random_init",
    ),
    ("models.hub.*",),
    ("models.parallel.*",),
    ("models.registry",),
    ("models.families.*",),
    ("models.tokenization.*",),
    ("models.checkpoints.*",),
    ("models.interface", "models.images.*", "models.hub.names", "models.hub.recipes"),
    ("models.*",),
    ("fusion.*",),
    ("loadtest.*",),
]
"""From the highest to the lowest: a module imports from its own floor and from those below."""


def declared(*extras: str) -> dict[str, Requirement]:
    """Requirements of the project, or of its extras, by normalised name."""
    texts = [text for extra in extras for text in PROJECT["optional-dependencies"][extra]]
    found = [Requirement(text) for text in texts or PROJECT["dependencies"]]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


installed = cache(packages_distributions)


def third_party(package: str) -> dict[str, set[str]]:
    """Names of the installed packages that each third-party import of a package may come from."""
    known = installed()
    names = set().union(*(imports(path) for path in modules(package)))
    return {
        name: {canonicalize_name(found) for found in known.get(name, [name])}
        for name in names - PACKAGES - set(sys.stdlib_module_names)
    }


def pinned(file: str) -> dict[str, str]:
    """Versions in a constraint file itself, by normalised name."""
    lines = re.findall(r"^(\S+)==(\S+)$", (FOLDER / f"{file}.txt").read_text(), re.M)
    return {canonicalize_name(name): version for name, version in lines}


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_third_party_imports_are_declared(package):
    everywhere = declared() | (declared("loadtest") if package == "loadtest" else {})
    for name, origins in third_party(package).items():
        wanted = declared(OPTIONAL[name]) if name in OPTIONAL else everywhere
        assert origins & wanted.keys(), f"{package} imports {name}, which pyproject.toml omits"


def test_declared_dependencies_are_imported():
    used = set().union(*(names for p in PACKAGES for names in third_party(p).values()))
    unused = (declared() | declared("loadtest")).keys() - used
    assert not unused, f"pyproject.toml declares {unused}, which no package imports"


@pytest.mark.parametrize("file", ["runtime", *EXTRAS])
def test_constraints_pin_what_is_declared_within_its_bounds(file):
    versions = pinned("runtime") | pinned(file)
    wanted = declared() if file == "runtime" else declared() | declared(file)
    for name, requirement in wanted.items():
        assert versions[name] in requirement.specifier, f"{requirement} against {versions[name]}"


def test_constraint_files_agree_with_one_another():
    pairs = {pair for file in ("runtime", *EXTRAS) for pair in pinned(file).items()}
    assert len(pairs) == len(dict(pairs))


def test_runtime_constraints_hold_what_the_server_needs_and_no_more():
    """An image resolves against neither load test nor development tools."""
    wanted = pins([*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["otel"]])
    names = {canonicalize_name(pin.partition("==")[0]) for pin in wanted}
    assert pinned("runtime").keys() == names and "gevent" not in names


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_imports_follow_the_layers(package):
    for path in modules(package):
        wrong = (imports(path) & PACKAGES) - MAY_IMPORT[package]
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


@cache
def import_graph() -> dict[str, set[str]]:
    return graph(MODULES)


def test_modules_import_from_their_floor_and_below():
    assert not upward(import_graph(), FLOORS)


def test_modules_import_each_other_in_no_circle():
    assert not circle(import_graph())


def test_transport_knows_no_model_engine_or_route():
    found = {
        (module, other)
        for module, others in import_graph().items()
        for other in others
        if module.startswith("server.http") and not other.startswith("server.http")
    }
    assert not found


def test_import_checks_find_circles_and_upward_imports():
    rooms = [("a.*",), ("b.*",), ("b.low",)]
    assert upward({"b.x": {"a"}, "a": {"b.x", "a.y"}, "b.low": {"b"}}, rooms) == {
        ("b.x", "a"),
        ("b.low", "b"),
    }
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) and not circle({"a": {"b"}, "b": {"c"}})


def test_the_server_folder_has_few_files_of_its_own():
    assert len([*(ROOT / "server").glob("*.py")]) <= 8


def test_the_sampler_needs_torch_numpy_and_no_more():
    for path in modules("sampler"):
        other = imports(path) - SAMPLER_NEEDS - PACKAGES - set(sys.stdlib_module_names)
        assert not other, f"{path.relative_to(ROOT)} imports {other}"


def test_the_scheduler_knows_no_torch():
    assert not imports(ROOT / "server" / "engine" / "scheduler.py") & {
        "torch",
        "threading",
        "time",
        "sampler",
    }


def test_ray_is_for_the_cluster_alone():
    """A single server does not need it."""
    may = {ROOT / "server" / "cli" / "cluster.py", *(ROOT / "server" / "cluster").glob("*.py")}
    for package in PACKAGES:
        for path in set(modules(package)) - may:
            assert "ray" not in imports(path), path
            assert "server.cluster" not in path.read_text(), path


def test_recipes_are_imported_by_nobody():
    for package in PACKAGES:
        for path in modules(package):
            assert "recipes" not in imports(path), path


def test_no_environment_reading_outside_settings():
    """Some modules set or remove variables of libraries; one looks whether OpenMP's is set."""
    settings = {ROOT / "server" / "config.py"}
    setting = {ROOT / "server/cli/cluster.py", ROOT / "models/parallel/workers.py"}
    setting |= {ROOT / "server/__init__.py", ROOT / "server/cli/openmp.py"}
    for package in PACKAGES:
        for path in set(modules(package)) - settings - setting:
            text = path.read_text()
            assert "os.environ" not in text and "getenv" not in text, path


@pytest.mark.slow
def test_names_resolve_to_this_project_from_anywhere(tmp_path):
    """The five names are generic; an installation must not be shadowed by the working folder."""
    code = "import json, server, sampler, models, fusion, loadtest as l\n" + (
        "print(json.dumps([m.__file__ for m in (server, sampler, models, fusion, l)]))"
    )
    run = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    for file, name in zip(
        json.loads(run.stdout), ("server", "sampler", "models", "fusion", "loadtest"), strict=True
    ):
        assert Path(file) == ROOT / name / "__init__.py"


@pytest.mark.slow
@pytest.mark.parametrize("script", ["xdlm", "xdlm-loadtest"])
def test_console_scripts_run_from_any_folder(tmp_path, script):
    path = Path(sys.executable).parent / script
    run = subprocess.run([path, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0 and "Usage" in run.stdout
