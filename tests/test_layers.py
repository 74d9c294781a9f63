"""Run the checks of layers, style and types over the whole source."""

import subprocess
import sys

import pytest

from tests.source import PACKAGE, ROOT

LINT_IMPORTS = (
    "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
)
HEAVY = ("torch", "numba", "scipy", "matplotlib")


def run_python(*arguments):
    """Run this interpreter in the repository; its output on failure is the message."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_lines_import_only_from_the_layers_below():
    run_python("-c", LINT_IMPORTS)


def test_ruff_finds_nothing():
    run_python("-m", "ruff", "check", "--quiet", "src", "tests", "tools", "benchmarks")


def test_code_is_formatted():
    run_python("-m", "ruff", "format", "--quiet", "--check", "src", "tests", "tools", "benchmarks")


@pytest.mark.timeout(600)
def test_types_hold():
    run_python("-m", "mypy")


def test_every_folder_of_the_package_has_an_init():
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_forms_and_registry_start_without_heavy_packages():
    code = (
        "import sys; from verglas.core.registry import load_registry; load_registry();"
        f"print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    assert run_python("-c", code).split() == []
