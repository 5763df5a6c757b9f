"""The house keeps its shape: who imports whom, and what an installation looks like."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {"server", "sampler", "models", "loadtest"}
MAY_IMPORT = {
    "server": {"server", "sampler", "models"},
    "sampler": {"sampler"},
    "models": {"models"},
    "loadtest": {"loadtest"},
}
SAMPLER_NEEDS = {"torch", "jaxtyping"}


def imports(path: Path) -> set[str]:
    """Top-level names of all modules that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add((node.module or "").split(".")[0])
    return found


def modules(package: str) -> list[Path]:
    """All modules of a package."""
    return [*(ROOT / package).rglob("*.py")]


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_imports_follow_the_layers(package):
    for path in modules(package):
        wrong = (imports(path) & PACKAGES) - MAY_IMPORT[package]
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_the_sampler_needs_torch_and_no_more():
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
    """A single server neither needs nor imports it."""
    may = {ROOT / "server" / "cli" / "cluster.py", *(ROOT / "server" / "cluster").glob("*.py")}
    for package in PACKAGES:
        for path in set(modules(package)) - may:
            assert "ray" not in imports(path), path
            assert "server.cluster" not in path.read_text(), path
    command = "import sys, server.cli, server.api.app; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command]).returncode == 0


def test_recipes_are_imported_by_nobody():
    for package in PACKAGES:
        for path in modules(package):
            assert "recipes" not in imports(path), path


def test_no_environment_reading_outside_settings():
    """The command for Ray and the ranks of a network set variables of libraries, and read none."""
    settings = {ROOT / "server" / "config.py"}
    setting = {ROOT / "server/cli/cluster.py", ROOT / "models/parallel/workers.py"}
    for package in PACKAGES:
        for path in set(modules(package)) - settings - setting:
            text = path.read_text()
            assert "os.environ" not in text and "getenv" not in text, path


def test_names_resolve_to_this_project_from_anywhere(tmp_path):
    """The four names are generic; an installation must not be shadowed by the working folder."""
    code = "import json, server, sampler, models, loadtest as l\n" + (
        "print(json.dumps([m.__file__ for m in (server, sampler, models, l)]))"
    )
    run = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    for file, name in zip(
        json.loads(run.stdout), ("server", "sampler", "models", "loadtest"), strict=True
    ):
        assert Path(file) == ROOT / name / "__init__.py"


@pytest.mark.parametrize("script", ["xdlm", "xdlm-loadtest"])
def test_console_scripts_run_from_any_folder(tmp_path, script):
    path = Path(sys.executable).parent / script
    run = subprocess.run([path, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0 and "Usage" in run.stdout


@pytest.mark.slow
def test_the_wheel_holds_the_checkpoint_and_not_its_recipe(tmp_path):
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, ROOT]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "models/bundled/stories/model.safetensors" in names
    assert {f"server/web/{path.name}" for path in (ROOT / "server" / "web").iterdir()} <= set(names)
    assert not [n for n in names if n.startswith(("recipes", "tests", "benchmarks"))]
    assert {n.split("/")[0] for n in names if ".dist-info" not in n} == PACKAGES
