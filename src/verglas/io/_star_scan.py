"""Squeeze large STAR tables so that a CSV reader can parse them, and find column types.

RELION pads its columns with runs of spaces, which no fast CSV reader takes. One compiled
pass writes single spaces and classifies every value, so that types are known, not guessed
from the first rows. Import this module only where a table is large: numba loads slowly.
"""

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["FLOAT", "INTEGER", "NEEDS_CARE", "PLAIN", "TEXT", "WRONG_COUNT", "squeeze"]

INTEGER, FLOAT, TEXT = 0, 1, 2
PLAIN, NEEDS_CARE, WRONG_COUNT = 0, 1, 2
_SPACE, _TAB, _RETURN, _NEWLINE = 32, 9, 13, 10
_DOUBLE, _SINGLE, _HASH, _UNDERSCORE = 34, 39, 35, 95
_PLUS, _MINUS, _POINT, _ZERO, _NINE = 43, 45, 46, 48, 57
_MAX_DIGITS = 18  # of an integer that surely fits 64 bits


def squeeze(
    data: NDArray[np.uint8], start: int, n_columns: int, out: NDArray[np.uint8]
) -> tuple[int, int, int, int, NDArray[np.uint8]]:
    """Copy the rows of a table with one space between values.

    Args:
        data: the whole file.
        start: where the rows begin, at the start of a line.
        n_columns: values in a row.
        out: as long as the rest of `data`, and one more; written from 0.

    Returns:
        Rows, bytes written, where the rows end in `data`, status, and the type of each
        column. Status `NEEDS_CARE` means quotes or comments within rows, `WRONG_COUNT`
        that the row after the last counted one has another number of values.
    """
    kinds = np.zeros(n_columns, np.uint8)
    rows, written, end, status = _scan(data, start, n_columns, out, kinds)
    return int(rows), int(written), int(end), int(status), kinds


def _classify_bytes(data: NDArray[np.uint8], first: int, last: int) -> int:
    """Tell whether a value is an integer, a float or text; as `_column` in `star.py` does."""
    i = first
    is_signed = data[i] == _PLUS or data[i] == _MINUS
    if is_signed:
        i += 1
    digits = i
    while i < last and _ZERO <= data[i] <= _NINE:
        i += 1
    n_digits = i - digits
    if i == last and n_digits > 0:
        if n_digits > 1 and data[digits] == _ZERO:
            return TEXT  # 0012 is a name
        if n_digits > _MAX_DIGITS:
            return TEXT
        is_odd = data[first] == _PLUS or (is_signed and data[digits] == _ZERO)
        return FLOAT if is_odd else INTEGER
    if i < last and data[i] == _POINT:
        i += 1
        while i < last and _ZERO <= data[i] <= _NINE:
            i += 1
            n_digits += 1
    if n_digits == 0:
        return FLOAT if _is_word(data, i, last) else TEXT
    if i < last and (data[i] | 32) == 101:  # e or E
        i += 1
        if i < last and (data[i] == _PLUS or data[i] == _MINUS):
            i += 1
        exponent = i
        while i < last and _ZERO <= data[i] <= _NINE:
            i += 1
        if i == exponent:
            return TEXT
    return FLOAT if i == last else TEXT


def _is_nan_or_inf(data: NDArray[np.uint8], first: int, last: int) -> bool:
    if last - first != 3:
        return False
    a, b, c = data[first] | 32, data[first + 1] | 32, data[first + 2] | 32
    is_nan = a == 110 and b == 97 and c == 110
    is_inf = a == 105 and b == 110 and c == 102
    return bool(is_nan or is_inf)


def _skip_blanks(data: NDArray[np.uint8], position: int) -> int:
    while position < data.size and (
        data[position] == _SPACE or data[position] == _TAB or data[position] == _RETURN
    ):
        position += 1
    return position


def _skip_value(data: NDArray[np.uint8], position: int) -> int:
    while position < data.size and data[position] > _SPACE:
        position += 1
    return position


def _skip_line(data: NDArray[np.uint8], position: int) -> int:
    while position < data.size and data[position] != _NEWLINE:
        position += 1
    return position


def _is_block_line(data: NDArray[np.uint8], first: int) -> bool:
    """Whether `data_...` or `loop_` stands alone on its line; a path may begin so, too."""
    last = _value_end(data, first)
    if last - first < 5 or data[first + 4] != _UNDERSCORE:
        return False
    after = _blanks_end(data, last)
    if after < data.size and data[after] != _NEWLINE and data[after] != _HASH:
        return False
    a, b, c, d = data[first] | 32, data[first + 1] | 32, data[first + 2] | 32, data[first + 3] | 32
    is_data = a == 100 and b == 97 and c == 116 and d == 97
    is_loop = a == 108 and b == 111 and c == 111 and d == 112 and last - first == 5
    return is_data or is_loop


def _scan_rows(
    data: NDArray[np.uint8],
    start: int,
    n_columns: int,
    out: NDArray[np.uint8],
    kinds: NDArray[np.uint8],
) -> tuple[int, int, int, int]:
    position, written, rows = start, 0, 0
    while position < data.size:
        line, row_start = position, written
        position = _blanks_end(data, position)
        if position == data.size or data[position] == _NEWLINE or data[position] == _HASH:
            position = _line_end(data, position) + 1
            continue
        if data[position] == _UNDERSCORE or _block_line(data, position):
            return rows, row_start, line, PLAIN
        count = 0
        while position < data.size and data[position] != _NEWLINE:
            c = data[position]
            if c in (_DOUBLE, _SINGLE, _HASH) or c < _SPACE:
                return rows, row_start, line, NEEDS_CARE
            last = _value_end(data, position)
            if count < n_columns:
                kinds[count] = max(kinds[count], _classify(data, position, last))
            for i in range(position, last):
                out[written] = data[i]
                written += 1
            out[written] = _SPACE
            written += 1
            count += 1
            position = _blanks_end(data, last)
        if count != n_columns:
            return rows, row_start, line, WRONG_COUNT
        out[written - 1] = _NEWLINE
        rows += 1
        position += 1
    return rows, written, data.size, PLAIN


_compile = numba.njit(cache=True)
_blanks_end, _value_end, _line_end = (
    _compile(_skip_blanks),
    _compile(_skip_value),
    _compile(_skip_line),
)
_is_word, _block_line = _compile(_is_nan_or_inf), _compile(_is_block_line)
_classify = _compile(_classify_bytes)
_scan = _compile(_scan_rows)
