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


class Reserve:
    """The file that holds the space; it is absent after it was needed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self) -> None:
        """Make the file unless it is there, or space is so short that it would do harm."""
        if self.path.exists():
            return
        try:
            if shutil.disk_usage(self.path.parent).free >= 2 * RESERVE_BYTES:
                # random, since some file systems store zeros in no space at all
                self.path.write_bytes(os.urandom(RESERVE_BYTES))
        except OSError as error:
            log.debug("no disk space could be kept back: %s", error)
            self.path.unlink(missing_ok=True)

    def release(self) -> bool:
        """Give the space back to the disk; False when there was none."""
        try:
            self.path.unlink()
        except OSError:
            return False
        log.info("gave up the %d kB kept back for a full disk", RESERVE_BYTES // 1024)
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
