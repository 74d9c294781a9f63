"""Hold files and functions to the sizes of docs/conventions.md, section 8."""

import ast

import pytest

from tests.source import PACKAGE, ROOT, Function, functions, name_of, python_files

MAX_FILE_LINES = 800
MAX_FUNCTION_LINES = 80

# both lists may only shrink: an entry that is no longer needed fails a test
LARGE_FILES: frozenset[str] = frozenset()
LONG_FUNCTIONS: frozenset[str] = frozenset()

FILES = python_files(PACKAGE, ROOT / "tests")


def n_lines(path):
    return len(path.read_text(encoding="utf-8").splitlines())


def n_function_lines(function: Function) -> int:
    """Count the lines of a function without its docstring and decorators."""
    n = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function, clean=False) is not None:
        docstring = function.body[0]
        n -= docstring.end_lineno - docstring.lineno + 1
    return n


def long_functions():
    return {
        f"{name_of(path)}:{function.name}"
        for path in FILES
        for function in functions(path)
        if n_function_lines(function) > MAX_FUNCTION_LINES
    }


def test_files_are_short_enough():
    large = {name_of(path) for path in FILES if n_lines(path) > MAX_FILE_LINES}
    assert large == LARGE_FILES


def test_functions_are_short_enough():
    assert long_functions() == LONG_FUNCTIONS


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f():\n    return 1\n", 2),
        ('def f():\n    """Say it.\n\n    At length.\n    """\n    return 1\n', 2),
    ],
)
def test_docstring_does_not_count(source, expected):
    (function,) = ast.parse(source).body
    assert n_function_lines(function) == expected
