"""Ctrl-C and SIGTERM end a driver cleanly, a second Ctrl-C at once; both can be resumed."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.api.test_run import n_runs
from tests.engine.number_protocols import number_registry
from verglas.api.project import Project
from verglas.engine.placement import Placement
from verglas.project.record import JobStatus

TREE = Path(__file__).parents[2]

DRIVER = """
import sys
from tests.engine.number_protocols import number_registry
from verglas.api.project import Project
from verglas.engine.placement import Placement
from verglas.sdk import JobCancelled

root, log, where = sys.argv[1:]
placement = Placement("in_process") if where == "here" else Placement(workers=2, cores=2)
project = Project.open(root, registry=number_registry(), placement=placement)
try:
    project.run("numbers.raise_power", numbers="j1", chunk=1, pause_s=0.2, side_log=log)
except JobCancelled as stop:
    sys.exit(f"cancelled: {stop}")
"""


@pytest.mark.parametrize(
    ("where", "number"), [("here", signal.SIGTERM), ("workers", signal.SIGINT)]
)
def test_signal_cancels_cleanly_and_the_job_resumes(tmp_path, where, number):
    root, log = tmp_path / "p", tmp_path / "log"
    with Project.create(root, registry=number_registry()) as project:
        project.run("numbers.make_range", count=12, placement=Placement("in_process"))
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(root), str(log), where],
        cwd=TREE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while n_runs(log, "end") < 2:
        time.sleep(0.01)
        assert process.poll() is None
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    _, message = process.communicate(timeout=15)
    assert process.returncode == 1
    assert "cancelled; finished chunks are kept" in message
    assert "Traceback" not in message
    assert not psutil.wait_procs(workers, timeout=5)[1]
    n_starts, n_ends = n_runs(log, "start"), n_runs(log, "end")
    with Project.open(root, registry=number_registry()) as project:
        job = project.job("j2")
        assert job.status is JobStatus.CANCELLED
        project.resume(job, placement=Placement("in_process"))
        assert job.status is JobStatus.DONE
        n_reused = job.record.steps[0].reused
        assert n_reused >= n_ends - 2, "at most those whose result was not yet in place"
        assert n_runs(log, "start") - n_starts == 12 - n_reused
