"""Bring the index to the present form: ordered functions, each in a transaction.

The list only grows. An index that a newer program made is not touched.
"""

import sqlite3
from collections.abc import Callable
from importlib.resources import files

from verglas.core.errors import FormatError

__all__ = ["MIGRATIONS", "migrate"]


def _create_tables(connection: sqlite3.Connection) -> None:
    script = files("verglas.project").joinpath("schema.sql").read_text("utf-8")
    for statement in script.split(";\n"):
        if statement.strip():
            connection.execute(statement)


MIGRATIONS: tuple[tuple[str, Callable[[sqlite3.Connection], None]], ...] = (
    ("create tables", _create_tables),
)


def migrate(connection: sqlite3.Connection) -> None:
    """Run the migrations that the database has not seen."""
    if n_applied(connection) == len(MIGRATIONS):
        return
    connection.execute(
        "CREATE TABLE IF NOT EXISTS migration (number INTEGER PRIMARY KEY, name TEXT) STRICT"
    )
    for number in range(n_applied(connection), len(MIGRATIONS)):
        name, apply = MIGRATIONS[number]
        connection.execute("BEGIN IMMEDIATE")
        try:
            apply(connection)
            connection.execute("INSERT INTO migration VALUES (?, ?)", (number, name))
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")


def n_applied(connection: sqlite3.Connection) -> int:
    """Count the migrations that the database has seen; a newer database is refused."""
    found = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'migration'").fetchone()
    if found is None:
        return 0
    (count,) = connection.execute("SELECT count(*) FROM migration").fetchone()
    if count > len(MIGRATIONS):
        raise FormatError(
            f"the project's index has form {count}, this program knows {len(MIGRATIONS)}",
            "install a newer version of verglas",
        )
    return int(count)
