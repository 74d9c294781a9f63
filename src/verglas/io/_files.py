"""What all readers share: one wording for missing, empty and unreadable files."""

import gzip
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from verglas.core.errors import FormatError

__all__ = ["MAX_DEFLATE_RATIO", "decoding", "gunzip", "is_gzip", "read_bytes", "require_file"]

MAX_DEFLATE_RATIO = 1032  # the format's limit: 258 bytes from 2 bits
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK_BYTES = 1 << 20

# What the decoding libraries raise about bad bytes; each is turned into a FormatError.
_DECODE_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


@contextmanager
def decoding(path: Path, what: str) -> Iterator[None]:
    """Turn what a library says about damaged bytes into a `FormatError`.

    Args:
        path: the file being read.
        what: the format, with its article, as `a TIFF file`.
    """
    try:
        yield
    except FormatError:
        raise
    except _DECODE_ERRORS as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise FormatError(
            f"{str(path)!r} cannot be read as {what}: {reason}",
            "the file is damaged or of another format; copy or export it again",
        ) from error


def require_file(path: Path, what: str) -> int:
    """Check that a file is there and not empty, and return its size in bytes.

    Args:
        path: the file to be read.
        what: the format, with its article.
    """
    try:
        with path.open("rb"):
            size = path.stat().st_size
    except FileNotFoundError as error:
        raise FormatError(f"{str(path)!r} does not exist", "check the path") from error
    except IsADirectoryError as error:
        raise FormatError(f"{str(path)!r} is a folder, expected {what}") from error
    except (OSError, ValueError) as error:
        raise FormatError(f"{str(path)!r} cannot be opened: {error}") from error
    if size == 0:
        raise FormatError(
            f"{str(path)!r} is empty, expected {what}",
            "it was probably still being written or its copy failed; copy it again",
        )
    return size


def is_gzip(path: Path) -> bool:
    """Whether a file begins as gzip does."""
    with path.open("rb") as file:
        return file.read(2) == _GZIP_MAGIC


def read_bytes(path: Path, what: str) -> bytes:
    """Read a whole file, through gzip if it is compressed.

    Args:
        path: the file to be read.
        what: the format, with its article.
    """
    require_file(path, what)
    if is_gzip(path):
        return gunzip(path)
    return path.read_bytes()


def gunzip(path: Path) -> bytes:
    """Decompress a whole gzip file.

    Memory is bounded by the format: at most `MAX_DEFLATE_RATIO` times the file's size.
    """
    parts = []
    with decoding(path, "a gzip file"), gzip.open(path) as file:
        while part := file.read(_CHUNK_BYTES):
            parts.append(part)
    return b"".join(parts)
