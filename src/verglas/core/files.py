"""Write files so that a final name never holds half a file.

The content goes to a temporary name in the same folder, is flushed to the disk and renamed.
A crash or a full disk leaves at most a file whose name starts with a dot and ends in `.tmp`.
"""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from verglas.core.errors import DiskFull

__all__ = [
    "DISK_FULL",
    "atomic_folder",
    "atomic_path",
    "disk_full_explained",
    "full_disk_ignored",
    "relative_path",
    "write_text",
]

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says when there is no room for a write."""


@contextmanager
def atomic_path(path: Path, *, may_vanish: bool = False) -> Iterator[Path]:
    """Give a temporary path that becomes `path` when the block ends without error.

    The suffix is kept, since writers choose the format by it.

    Args:
        path: final name; its folder is made; an existing file is replaced.
        may_vanish: the machine may lose the name, never the content behind it, if it stops in
            the next seconds; faster for what is then made again.
    """
    temporary = _temporary_name(path, suffix=path.suffix)
    with disk_full_explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            _flush(temporary)
            os.replace(temporary, path)
            if not may_vanish:
                _flush(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder that becomes `folder` when the block ends without error.

    Args:
        folder: final name; it must not exist or be empty.
    """
    temporary = _temporary_name(folder, suffix="")
    with disk_full_explained(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.mkdir()
            yield temporary
            for path in temporary.rglob("*"):
                _flush(path)
            _flush(temporary)
            os.replace(temporary, folder)
            _flush(folder.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in one step: all of it or nothing."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def relative_path(path: Path, root: Path) -> str:
    """Write a path relative to a folder with forward slashes, `..` allowed.

    Args:
        path: absolute, or relative to the current folder.
        root: the project folder.
    """
    return Path(os.path.relpath(path.absolute(), root.absolute())).as_posix()


@contextmanager
def disk_full_explained(path: Path) -> Iterator[None]:
    """Turn the system's error about a full disk into a `DiskFull`; others stay what they are.

    Args:
        path: what is being written, for the message.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise DiskFull(
            f"cannot write {str(path)!r}: {os.strerror(error.errno).lower()}",
            "free some space and run again; finished chunks are kept",
        ) from error


@contextmanager
def full_disk_ignored() -> Iterator[None]:
    """Do without a write that only informs, as progress or a log, when there is no room."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise


def _temporary_name(path: Path, *, suffix: str) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp{suffix}")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
