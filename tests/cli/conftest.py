"""A toy plugin with quick protocols, and a way to call the command line in this process."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from verglas.cli.main import app

PLUGIN = Path(__file__).parent / "plugin"


@dataclass
class Answer:
    """What a command gave."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def cli(tmp_path, monkeypatch):
    """Run a command in an empty folder, with the toy plugin installed."""
    monkeypatch.syspath_prepend(str(PLUGIN))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("VERGLAS_PROJECT", raising=False)

    def call(*arguments):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Answer(result.exit_code, result.stdout, result.stderr)

    return call


@pytest.fixture
def toy(cli, monkeypatch, tmp_path):
    """Run a command in a project; chunks run in this process."""
    assert cli("new", "p").code == 0
    monkeypatch.setenv("VERGLAS_PROJECT", str(tmp_path / "p"))
    return cli


@pytest.fixture
def make(toy):
    """Run a protocol of the toy plugin without worker processes."""

    def call(protocol, *arguments):
        return toy("run", protocol, "--workers", "0", *arguments)

    return call
