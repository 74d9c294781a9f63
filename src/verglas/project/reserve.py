"""A little disk space kept back, so that a full disk can still be written down.

When the disk is full a job fails, and its record has to say so. The file kept here is given up
for that: the record is written over its first bytes, which takes no new space, and it is then
given the record's name, so that no other program can take the space in between. What it held
beyond the record becomes free, for the index. The file is made again once there is space.
"""

import logging
import os
import shutil
from pathlib import Path

__all__ = ["RESERVE_BYTES", "Reserve"]

log = logging.getLogger(__name__)

RESERVE_BYTES = 256 * 1024
_SLICE_BYTES = 64 * 1024  # for the project's lock, and some pages of the index


class Reserve:
    """The file that holds the space; it is absent after it was needed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self) -> None:
        """Make the file whole unless it is, or space is so short that it would do harm."""
        try:
            if self.path.exists() and self.path.stat().st_size >= RESERVE_BYTES:
                return
            if shutil.disk_usage(self.path.parent).free >= 2 * RESERVE_BYTES:
                # random, since some file systems store zeros in no space at all
                self.path.write_bytes(os.urandom(RESERVE_BYTES))
        except OSError as error:
            log.debug("no disk space could be kept back: %s", error)

    def shrink(self) -> bool:
        """Give a slice back to the disk, enough for the lock; False when there is none."""
        try:
            left = self.path.stat().st_size - _SLICE_BYTES
            if left < 0:
                return False
            os.truncate(self.path, left)
        except OSError:
            return False
        return True

    def become(self, path: Path, text: str) -> bool:
        """Turn the file into `path` with this text, in one step; False when it cannot be.

        Args:
            path: on the same disk; its folder exists; an existing file is replaced.
            text: of any length, but only the file's own is sure to find room.
        """
        data = text.encode()
        try:
            with self.path.open("r+b") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # while the blocks are still ours
                file.truncate(len(data))
                os.fsync(file.fileno())
            os.replace(self.path, path)
        except OSError as error:
            log.debug("the space kept back could not be used: %s", error)
            return False
        return True
