"""Read and write STAR files, small or with a million rows.

A file is a set of named blocks, each a table: a loop, or a list of single values, which is
read as a table of one row. Labels are given without their underscore. A row is one line.
Large plain tables take a compiled path. Columns are integers, floats or text by all of their
values; `0012` is text, since names are written so.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import polars as pl

from verglas.core.errors import FormatError
from verglas.core.files import atomic_path
from verglas.io._files import decoding, read_bytes

__all__ = ["StarValue", "read_star", "write_star"]

StarValue = str | int | float
_WHAT = "a STAR file"
_LARGE_BYTES = 1 << 21
_INTEGER = r"^(?:0|-?[1-9][0-9]{0,17})$"
_FLOAT = r"^[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|(?i:nan|inf))$"
_NAME_LIKE = r"^(?:[+-]?0[0-9]+|[+-]?[0-9]{19,})$"
_QUOTES = re.compile(rb"[\"'#]")
_BLOCK = re.compile(rb"(?i:data_(\S*))\s*(?:#.*)?$")
_VALUE = re.compile(rb"\"((?:[^\"]|\"(?=\S))*)\"(?=\s|$)|'((?:[^']|'(?=\S))*)'(?=\s|$)|(#.*)|(\S+)")
_MUST_QUOTE = r"""(?i)^$|\s|^[_#$;"']|^(?:data|loop|save|global|stop)_"""


def read_star(path: Path) -> dict[str, pl.DataFrame]:
    """Read every block of a STAR file, in order; gzip is looked through.

    Args:
        path: of the file.

    Returns:
        Tables by block name without `data_`; the name may be empty.
    """
    scanner = _Scanner(path, read_bytes(path, _WHAT))
    blocks: dict[str, pl.DataFrame] = {}
    while (name := scanner.next_block()) is not None:
        if name in blocks:
            raise scanner.error(f"block data_{name} appears twice")
        with decoding(path, _WHAT):
            blocks[name] = scanner.read_table()
    if not blocks:
        raise FormatError(
            f"{str(path)!r} is not a STAR file: no line begins with data_",
            "the file is of another format or damaged",
        )
    return blocks


def write_star(
    path: Path,
    blocks: Mapping[str, pl.DataFrame | Mapping[str, StarValue]],
    *,
    version: int | None = None,
) -> None:
    """Write tables as loops and mappings as lists of single values; all of it or nothing.

    Floats are written with as many digits as it takes to read the same number back.

    Args:
        path: final name; an existing file is replaced.
        blocks: by name without `data_`, in order.
        version: for the comment by which RELION tells its versions; 30001 for 3.1 and later.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        for name, block in blocks.items():
            if re.search(r"\s", name):
                raise ValueError(f"block name must not contain spaces: got {name!r}")
            comment = "" if version is None else f"\n# version {version}\n"
            file.write(f"{comment}\ndata_{name}\n\n".encode())
            if isinstance(block, pl.DataFrame):
                _write_loop(file, block)
            else:
                _write_pairs(file, block)
            file.write(b"\n")


@dataclass
class _Scanner:
    """Walks through the lines of a file."""

    path: Path
    data: bytes
    position: int = 0

    def error(self, what: str, position: int | None = None) -> FormatError:
        at = self.position if position is None else position
        line = self.data.count(b"\n", 0, at) + 1
        return FormatError(
            f"{str(self.path)!r} is not a proper STAR file: {what} (line {line})",
            "correct that line, or export the file again",
        )

    def line(self) -> bytes:
        """Return the line at the position, without its end."""
        end = self.data.find(b"\n", self.position)
        return self.data[self.position : end if end >= 0 else len(self.data)]

    def advance(self) -> None:
        end = self.data.find(b"\n", self.position)
        self.position = end + 1 if end >= 0 else len(self.data)

    def next_line(self) -> bytes | None:
        """Step over blank lines and comments; None at the end of the file."""
        while self.position < len(self.data):
            line = self.line().strip()
            if line and not line.startswith(b"#"):
                return line
            self.advance()
        return None

    def next_block(self) -> str | None:
        """Step over the next `data_` line and return the name after it."""
        line = self.next_line()
        if line is None:
            return None
        match = _BLOCK.match(line)
        if match is None:
            shown = line[:40].decode("utf-8", "replace")
            raise self.error(f"expected a line that begins with data_, got {shown!r}")
        self.advance()
        return match[1].decode("utf-8", "replace")

    def read_table(self) -> pl.DataFrame:
        line = self.next_line()
        if line is not None and line.split(None, 1)[0].lower() == b"loop_":
            self.advance()
            return self._read_loop()
        return self._read_pairs()

    def _read_pairs(self) -> pl.DataFrame:
        labels: list[str] = []
        values: list[list[str]] = []
        quoted: list[bool] = []
        while (line := self.next_line()) is not None and line.startswith(b"_"):
            items, is_quoted = self._split(line)
            if len(items) > 2:
                raise self.error(f"expected a label and a value, got {len(items)} items")
            labels.append(items[0][1:])
            values.append([items[1] if len(items) == 2 else ""])
            quoted.append(len(items) == 2 and is_quoted[1])
            self.advance()
        if line is not None and line.split(None, 1)[0].lower() == b"loop_" and labels:
            raise self.error("a block holds single values and a loop; mmCIF is read as atoms")
        return self._table(labels, values, quoted)

    def _read_loop(self) -> pl.DataFrame:
        labels = []
        while (line := self.next_line()) is not None and line.startswith(b"_"):
            labels.append(line.split(None, 1)[0][1:].decode("utf-8", "replace"))
            self.advance()
        if not labels:
            raise self.error("loop_ is followed by no label")
        self._check_labels(labels)
        if len(self.data) - self.position > _LARGE_BYTES:
            table = self._read_large(labels)
            if table is not None:
                return table
        return self._read_rows(labels)

    def _read_rows(self, labels: list[str]) -> pl.DataFrame:
        rows: list[list[str]] = []
        is_text = [False] * len(labels)
        while (line := self.next_line()) is not None:
            if line.startswith(b"_") or line.lower() == b"loop_" or _BLOCK.match(line):
                break
            items, quoted = self._split(line)
            if len(items) != len(labels):
                raise self._wrong_count(len(labels), len(items))
            rows.append(items)
            if True in quoted:
                is_text = [a or b for a, b in zip(is_text, quoted, strict=True)]
            self.advance()
        columns = list(zip(*rows, strict=True)) if rows else [() for _ in labels]
        return self._table(labels, columns, is_text)

    def _read_large(self, labels: list[str]) -> pl.DataFrame | None:
        """Read a plain table through the compiled pass; None if it is not plain."""
        from verglas.io import _star_scan as scan

        out = np.empty(len(self.data) - self.position + 1, np.uint8)
        n_rows, written, end, status, kinds = scan.squeeze(
            np.frombuffer(self.data, np.uint8), self.position, len(labels), out
        )
        if status == scan.NEEDS_CARE:
            return None
        if status == scan.WRONG_COUNT:
            self.position = end
            raise self._wrong_count(len(labels), len(self.line().split()))
        self.position = end
        types = {scan.INTEGER: pl.Int64(), scan.FLOAT: pl.Float64(), scan.TEXT: pl.String()}
        schema = {label: types[int(kind)] for label, kind in zip(labels, kinds, strict=True)}
        if n_rows == 0:
            return pl.DataFrame(schema=dict.fromkeys(labels, pl.String()))
        rows = io.BytesIO(out[:written].data)
        del out  # the bytes are held once from here on
        try:
            return pl.read_csv(
                rows,
                has_header=False,
                schema=schema,
                separator=" ",
                quote_char=None,
            )
        except pl.exceptions.PolarsError as error:
            raise self.error(f"the rows of this table cannot be read: {error}") from error

    def _split(self, line: bytes) -> tuple[list[str], list[bool]]:
        """Split a line into values; which of them were quoted."""
        if not _QUOTES.search(line):
            items = [item.decode() for item in line.split()]
            return items, [False] * len(items)
        items, quoted = [], []
        for match in _VALUE.finditer(line):
            double, single, comment, bare = match.groups()
            if comment is not None:
                break
            if bare is not None and bare[:1] in (b'"', b"'"):
                raise self.error("a quotation mark has no partner")
            text = next(part for part in (double, single, bare) if part is not None)
            items.append(text.decode())
            quoted.append(bare is None)
        return items, quoted

    def _wrong_count(self, expected: int, got: int) -> FormatError:
        return self.error(f"a row has {got} values, expected {expected}")

    def _check_labels(self, labels: list[str]) -> None:
        if "" in labels:
            raise self.error("a label is empty")
        repeated = sorted({label for label in labels if labels.count(label) > 1})
        if repeated:
            raise self.error(f"label _{repeated[0]} appears twice in a block")

    def _table(
        self, labels: list[str], columns: Sequence[Sequence[str]], is_text: list[bool]
    ) -> pl.DataFrame:
        self._check_labels(labels)
        return pl.DataFrame(
            [
                _column(label, values, is_text=text)
                for label, values, text in zip(labels, columns, is_text, strict=True)
            ]
        )


def _column(label: str, values: Sequence[str], *, is_text: bool) -> pl.Series:
    """Give a column the narrowest of integer, float and text that holds every value."""
    series = pl.Series(label, values, dtype=pl.String())
    if is_text or not len(values):
        return series
    if series.str.contains(_INTEGER).all():
        return series.cast(pl.Int64())
    if series.str.contains(_FLOAT).all() and not series.str.contains(_NAME_LIKE).any():
        return series.cast(pl.Float64())
    return series


def _write_loop(file: IO[bytes], table: pl.DataFrame) -> None:
    if not table.columns:
        return
    lines = [f"_{_checked(label)} #{i}\n" for i, label in enumerate(table.columns, 1)]
    file.write(("loop_\n" + "".join(lines)).encode())
    plain = table.select(_plain(table[label]) for label in table.columns)
    plain.write_csv(file, include_header=False, separator=" ", quote_style="never")


def _write_pairs(file: IO[bytes], values: Mapping[str, StarValue]) -> None:
    for label, value in values.items():
        text = _plain(pl.Series(label, [value])).cast(pl.String())[0]
        file.write(f"_{_checked(label)} {text}\n".encode())


def _checked(label: str) -> str:
    if not label or re.search(r"\s", label):
        raise ValueError(f"label must not be empty or contain spaces: got {label!r}")
    return label


def _plain(column: pl.Series) -> pl.Series:
    """Make a column of numbers and quoted text that can be written as it is."""
    if column.dtype == pl.Boolean():
        column = column.cast(pl.Int64())
    if column.dtype.is_float():
        return column.fill_null(float("nan"))
    if column.dtype.is_integer():
        if column.null_count():
            raise ValueError(f"column {column.name!r} has empty integer values")
        return column
    if not isinstance(column.dtype, pl.String | pl.Categorical | pl.Enum):
        raise TypeError(f"column {column.name!r} cannot be written to STAR: {column.dtype}")
    text = column.cast(pl.String()).fill_null("None")
    needs = text.str.contains(_MUST_QUOTE)
    if not needs.any():
        return text
    return pl.Series(
        column.name,
        [
            _quote(column.name, value) if quote else value
            for value, quote in zip(text, needs, strict=True)
        ],
        dtype=pl.String(),
    )


def _quote(name: str, value: str) -> str:
    mark = "'" if '"' in value else '"'
    if mark in value or re.search(r"[\n\r]", value):
        raise ValueError(
            f"column {name!r} holds text that STAR cannot: line breaks or both kinds of "
            f"quotation marks in {value!r}"
        )
    return f"{mark}{value}{mark}"
