"""Hold names, help and documentation to docs/conventions.md, sections 1 and 5."""

import ast
import importlib
import re
import subprocess
import sys

import polars as pl
import pytest

from tests.source import PACKAGE, ROOT, argument_names, functions, name_of, python_files
from verglas.core.registry import load_registry
from verglas.core.units import UNITS, unit_of
from verglas.model import COLUMNS, KINDS, TRAITS
from verglas.sdk.testing import check_protocol

CONVENTIONS = (ROOT / "docs" / "conventions.md").read_text(encoding="utf-8")
BARE_NAMES = {"rotation", "matrix", "R", "T"}
FILES = python_files(PACKAGE)
PROTOCOLS = load_registry().protocols

# columns of tomography, which are declared together with the first protocol that makes them
LATER = {"shift_z_angst", "coord_z_angst", "tilt_angle_deg", "tilt_axis_angle_deg"}


def module_docstring(path):
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def test_units_are_those_of_the_conventions():
    table = CONVENTIONS[CONVENTIONS.index("| suffix |") : CONVENTIONS.index("- Standard columns")]
    assert set(re.findall(r"`(_\w+)`", table)) == set(UNITS)


def test_standard_columns_are_declared():
    (line,) = re.findall(r"Standard columns: `([\w ]+)`", CONVENTIONS)
    assert {name for name in line.split() if name not in COLUMNS} == LATER


@pytest.mark.parametrize("column", COLUMNS.values(), ids=list(COLUMNS))
def test_column_is_documented(column):
    assert re.fullmatch(r"[a-z][a-z0-9_]*", column.name)
    assert column.meaning.endswith(".")
    assert not column.name.startswith("x_") or unit_of(column.name) or column.name == "x_label"


@pytest.mark.parametrize("column", COLUMNS.values(), ids=list(COLUMNS))
def test_column_with_unit_is_a_number(column):
    if column.unit:
        inner = column.dtype.inner if isinstance(column.dtype, pl.List) else column.dtype
        assert inner.is_float() or column.unit == "px"


def test_foreign_names_are_used_once():
    for names in ([c.relion for c in COLUMNS.values()],):
        used = [name for name in names if name]
        assert len(used) == len(set(used))


def test_traits_name_declared_columns():
    assert {name for trait in TRAITS.values() for name in trait.columns} <= set(COLUMNS)


def test_kinds_name_declared_traits():
    names = {name for kind in KINDS.values() for name in (*kind.required, *kind.optional)}
    assert names <= set(TRAITS)


def test_advice_names_protocols_that_exist():
    if not PROTOCOLS:
        pytest.skip("no protocol is installed")
    assert {maker for trait in TRAITS.values() for maker in trait.made_by} <= set(PROTOCOLS)


def test_built_in_modules_all_import():
    assert load_registry().broken == []


@pytest.mark.parametrize("protocol_id", PROTOCOLS)
def test_protocol_declares_what_it_must(protocol_id):
    check_protocol(PROTOCOLS[protocol_id].run)


def test_no_argument_is_a_rotation_without_frames():
    bare = [
        f"{name_of(path)}:{function.name}"
        for path in FILES
        for function in functions(path)
        if not function.name.startswith("_") and BARE_NAMES & set(argument_names(function))
    ]
    assert bare == []


def test_modules_say_in_ten_lines_what_is_there():
    long = [
        name_of(path)
        for path in FILES
        if "protocols" not in path.parts and not 1 <= len(module_docstring(path).splitlines()) <= 10
    ]
    assert long == []


def test_first_lines_of_docstrings_are_short():
    long = [
        f"{name_of(path)}:{function.name}"
        for path in FILES
        for function in functions(path)
        if len((ast.get_docstring(function) or "").partition("\n")[0]) > 90
    ]
    assert long == []


@pytest.mark.parametrize("package", ["model", "sdk"])
def test_re_exported_names_exist(package):
    module = importlib.import_module(f"verglas.{package}")
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_modules_list_their_public_names():
    unlisted = [
        name_of(path)
        for path in FILES
        if not path.name.startswith("_") and "__all__" not in path.read_text(encoding="utf-8")
    ]
    assert unlisted == []


def test_column_page_is_up_to_date():
    script = str(ROOT / "tools" / "make_column_page.py")
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
