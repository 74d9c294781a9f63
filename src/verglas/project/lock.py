"""One writer for a project, also on network file systems.

The lock is a file that names its owner (host, process, start time) and whose modification time
is the owner's heartbeat. On the owner's own machine the process list says whether it lives; from
elsewhere only the heartbeat does. `flock` is not used: network file systems differ in it.
"""

import json
import logging
import os
import socket
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

import psutil

from verglas.core.errors import ProjectLocked, UserError
from verglas.core.files import disk_full_explained

__all__ = ["Owner", "ProjectLock", "is_alive", "read_owner", "wait_for_lock"]

log = logging.getLogger(__name__)

HEARTBEAT_S = 5.0
STALE_AFTER_S = 40.0


@dataclass(frozen=True, slots=True)
class Owner:
    """Who holds a lock; `machine` tells apart hosts and containers of one name."""

    host: str
    pid: int
    started_s: float
    machine: str
    token: str
    command: str = ""

    def __str__(self) -> str:
        """Describe the owner for a message."""
        command = f" ({self.command})" if self.command else ""
        return f"process {self.pid} on {self.host}{command}"


class ProjectLock:
    """The lock file of a project; `acquire` once, `release` at the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._owner: Owner | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def is_held(self) -> bool:
        """Whether this object holds the lock, as far as it knows."""
        return self._owner is not None

    def acquire(self) -> Owner | None:
        """Take the lock; returns the dead owner it was taken over from, if any.

        Raises:
            ProjectLocked: another live process holds it.
            DiskFull: there is no room for the file.
        """
        if self._owner is not None:
            return None
        owner, previous = _this_process(), None
        while not _create(self.path, owner):
            holder = read_owner(self.path)
            if holder is None:
                continue
            if is_alive(holder, self.path):
                raise ProjectLocked(
                    f"project {str(self.path.parent)!r} is being written by {holder}",
                    hint="wait for it, or stop it; reading commands work meanwhile",
                )
            if _remove_stale(self.path, holder):
                log.warning("took over the project from %s, which has ended", holder)
                previous = holder
        self._owner = owner
        self._stop.clear()
        self._thread = threading.Thread(target=self._beat, name="project-lock", daemon=True)
        self._thread.start()
        return previous

    def release(self) -> None:
        """Give the lock back; nothing happens when it is not held."""
        if self._owner is None:
            return
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
        holder = read_owner(self.path)
        if holder is not None and holder.token == self._owner.token:
            self.path.unlink(missing_ok=True)
        self._owner = None

    def check(self) -> None:
        """Make sure that nobody took the lock away, as after a long sleep of the machine.

        Raises:
            ProjectLocked: the lock is not held any more.
        """
        holder = read_owner(self.path)
        if self._owner is None or holder is None or holder.token != self._owner.token:
            raise ProjectLocked(
                f"the lock of project {str(self.path.parent)!r} was lost to {holder}",
                hint="open the project again",
            )

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            try:
                os.utime(self.path)
            except OSError as error:
                log.warning("heartbeat of the project lock failed: %s", error)


def read_owner(path: Path) -> Owner | None:
    """Read who holds a lock; None when nobody does."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return None
    try:
        return Owner(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise UserError(
            f"lock file {str(path)!r} cannot be read: {error}",
            hint="delete it if no other process works on the project",
        ) from error


def is_alive(owner: Owner, path: Path) -> bool:
    """Whether the owner of the lock at `path` still lives."""
    if owner.machine == _machine():
        try:
            started_s: float = psutil.Process(owner.pid).create_time()
            return abs(started_s - owner.started_s) < 2.0
        except psutil.NoSuchProcess:
            return False
    return _heartbeat_age_s(path) < STALE_AFTER_S


def _heartbeat_age_s(path: Path) -> float:
    """Age of the heartbeat by the clock of the file system, which may not be ours."""
    probe = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        probe.touch()
        now_s = probe.stat().st_mtime
    except OSError:  # a full disk, or one that we may only read
        now_s = time.time()
    finally:
        probe.unlink(missing_ok=True)
    try:
        return now_s - path.stat().st_mtime
    except FileNotFoundError:
        return STALE_AFTER_S


def _this_process() -> Owner:
    process = psutil.Process()
    words = process.cmdline()
    command = " ".join([Path(words[0]).name, *words[1:]])[:120] if words else ""
    return Owner(
        host=socket.gethostname(),
        pid=process.pid,
        started_s=process.create_time(),
        machine=_machine(),
        token=uuid4().hex,
        command=command,
    )


def _machine() -> str:
    """Name the running kernel and process namespace, in which a process number means something."""
    parts = [socket.gethostname()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    except OSError:
        parts.append(f"{psutil.boot_time():.0f}")
    return "/".join(parts)


def _create(path: Path, owner: Owner) -> bool:
    """Put the lock file in place whole, unless there is one: `link` is atomic everywhere."""
    temporary = path.with_name(f".{path.name}.{owner.token}")
    with disk_full_explained(path):
        try:
            temporary.write_text(json.dumps(asdict(owner)), "utf-8")
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
    return True


def _remove_stale(path: Path, dead: Owner) -> bool:
    """Move a dead owner's file away; a new owner's that came between is put back."""
    aside = path.with_name(f".{path.name}.stale.{uuid4().hex}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return False
    holder = read_owner(aside)
    try:
        if holder is None or holder.token == dead.token:
            return True
        os.link(aside, path)
    except FileExistsError:
        log.warning("two processes took the project lock at once")
    finally:
        aside.unlink(missing_ok=True)
    return False


def wait_for_lock(lock: ProjectLock, *, timeout_s: float) -> Owner | None:
    """Acquire a lock, trying for a while.

    Raises:
        ProjectLocked: the owner did not let go in time.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return lock.acquire()
        except ProjectLocked:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.2)
