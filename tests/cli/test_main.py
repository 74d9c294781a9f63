"""The command itself: help, version, wrong use, and what is imported for it."""

import subprocess
import sys

import pytest

from tests.source import ROOT

HEAVY = ("torch", "polars", "distributed", "numba", "scipy", "matplotlib", "numpy")
START = ("demo", "new", "process", "run", "replay", "protocols", "schema", "simulate")
COMMANDS = (*START, "jobs", "show", "log", "graph", "export", "import", "reindex", "doctor")


def heavy_modules_after(code):
    listing = (
        f"import sys\n{code}\nprint([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", listing], capture_output=True, text=True, check=True
    )
    return done.stderr.strip().splitlines()[-1]


def test_import_of_the_command_line_loads_nothing_heavy():
    assert heavy_modules_after("import verglas.cli.main") == "[]"


@pytest.mark.parametrize("arguments", [["--help"], ["process", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(arguments):
    code = (
        "import verglas.cli.main as m\n"
        f"sys.argv = ['verglas', *{arguments}]\n"
        "try:\n    m.main()\nexcept SystemExit as e:\n    assert e.code in (0, None), e.code"
    )
    assert heavy_modules_after(code) == "[]"


def test_help_lists_every_command(cli):
    text = cli("--help").out
    assert [name for name in COMMANDS if f" {name} " not in text] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(cli, command):
    answer = cli(command, "--help")
    assert answer.code == 0
    assert "Usage: verglas" in answer.out


def test_command_page_is_up_to_date():
    script = str(ROOT / "tools" / "make_command_page.py")
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_version_is_that_of_the_package(cli):
    from importlib.metadata import version

    assert cli("--version").out == f"verglas {version('verglas')}\n"


def test_unknown_command_names_the_nearest(cli):
    answer = cli("proces")
    assert answer.code == 2
    assert "process" in answer.err


def test_error_for_people_has_no_traceback(cli):
    answer = cli("jobs", "--project", "nowhere")
    assert answer.code == 2
    assert "error: no project at" in answer.err
    assert "hint: make one with: verglas new" in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize("place", [0, 1, 3])
def test_debug_shows_the_traceback_wherever_it_stands(cli, place):
    arguments = ["jobs", "--project", "nowhere"]
    answer = cli(*arguments[:place], "--debug", *arguments[place:])
    assert answer.code == 2
    assert "Traceback" in answer.err


def test_command_outside_of_a_project_says_so(cli):
    answer = cli("jobs")
    assert answer.code == 2
    assert "or above it" in answer.err


def test_project_is_found_from_a_folder_inside(toy, monkeypatch, tmp_path):
    monkeypatch.delenv("VERGLAS_PROJECT")
    monkeypatch.chdir(tmp_path / "p" / "jobs")
    assert toy("jobs").code == 0
