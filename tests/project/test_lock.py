import json
import os
import subprocess
import sys
import time

import pytest

from verglas.core.errors import ProjectLocked, UserError
from verglas.project.lock import STALE_AFTER_S, ProjectLock, read_owner, wait_for_lock

HOLD = """
import sys, time
from pathlib import Path
from verglas.project.lock import ProjectLock
ProjectLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def other_owner(tmp_path):
    """A process that holds the lock."""
    path = tmp_path / "project.lock"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "held\n"
        yield path, process
        process.kill()


def test_second_writer_is_refused_and_told_the_owner(other_owner):
    path, process = other_owner
    with pytest.raises(ProjectLocked, match=rf"process {process.pid} on "):
        ProjectLock(path).acquire()


def test_lock_of_a_killed_owner_is_taken_over_at_once(other_owner):
    path, process = other_owner
    process.kill()
    process.wait()
    lock = ProjectLock(path)
    previous = lock.acquire()
    assert previous is not None
    assert previous.pid == process.pid
    assert read_owner(path).pid == os.getpid()
    lock.release()
    assert not path.exists()


def test_second_lock_of_the_same_process_is_refused(tmp_path):
    first, second = ProjectLock(tmp_path / "l"), ProjectLock(tmp_path / "l")
    first.acquire()
    with pytest.raises(ProjectLocked):
        second.acquire()
    first.release()
    second.acquire()
    second.release()


def write_foreign(path, age_s):
    owner = {
        "host": "far", "pid": 1, "started_s": 0.0, "machine": "far/x", "token": "t", "command": "",
    }  # fmt: skip
    path.write_text(json.dumps(owner))
    then = time.time() - age_s
    os.utime(path, (then, then))


def test_owner_on_another_host_counts_as_alive_while_its_heart_beats(tmp_path):
    path = tmp_path / "l"
    write_foreign(path, age_s=STALE_AFTER_S / 2)
    with pytest.raises(ProjectLocked, match="process 1 on far"):
        ProjectLock(path).acquire()


def test_owner_on_another_host_is_given_up_within_a_minute(tmp_path):
    path = tmp_path / "l"
    assert STALE_AFTER_S < 60
    write_foreign(path, age_s=STALE_AFTER_S + 1)
    lock = ProjectLock(path)
    assert lock.acquire().host == "far"
    lock.release()


def test_process_number_that_was_given_again_does_not_hold_the_lock(tmp_path):
    path = tmp_path / "l"
    lock = ProjectLock(path)
    lock.acquire()
    owner = json.loads(path.read_text())
    path.unlink()
    path.write_text(json.dumps(owner | {"started_s": owner["started_s"] - 1000, "token": "old"}))
    second = ProjectLock(path)
    assert second.acquire() is not None
    lock.release()
    assert path.exists(), "the first owner removed the second one's lock"
    second.release()


def test_lost_lock_is_noticed(tmp_path):
    lock = ProjectLock(tmp_path / "l")
    lock.acquire()
    lock.check()
    (tmp_path / "l").unlink()
    with pytest.raises(ProjectLocked, match="was lost"):
        lock.check()
    lock.release()


def test_damaged_lock_file_is_named(tmp_path):
    (tmp_path / "l").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        ProjectLock(tmp_path / "l").acquire()


def test_waiting_for_the_lock_ends(tmp_path):
    write_foreign(tmp_path / "l", age_s=0)
    with pytest.raises(ProjectLocked):
        wait_for_lock(ProjectLock(tmp_path / "l"), timeout_s=0.3)
