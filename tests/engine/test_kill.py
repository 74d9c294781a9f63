"""kill -9 of the driver at random moments: nothing finished is lost or done twice."""

import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.engine.number_protocols import number_registry
from verglas.api.project import Project
from verglas.engine.placement import Placement
from verglas.project.record import JobStatus

DRIVER = """
import sys
from tests.engine.number_protocols import number_registry
from verglas.api.project import Project
from verglas.engine.placement import Placement

root, log, pause_s = sys.argv[1], sys.argv[2], 0.05
project = Project.open(root, registry=number_registry(), placement=Placement(workers=2, cores=2))
print("open", flush=True)
powers = project.run("numbers.raise_power", numbers="j1", chunk=1, pause_s=pause_s, side_log=log)
total = project.run("numbers.sum_up", numbers=powers, chunk=8, pause_s=pause_s, side_log=log)
print("done", flush=True)
"""
# no guard for __main__: a user's script has none either


def start_driver(root, log):
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(root), str(log)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        text=True,
    )
    assert process.stdout.readline() == "open\n"
    return process


def kill_and_wait_for_orphans(process):
    """Kill the driver only; its workers must end by themselves, within seconds."""
    orphans = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(orphans, timeout=5)
    assert not alive, "workers outlived their driver by 5 s"


def finished(root):
    return {path.stem for path in root.glob("jobs/*/chunks/*/*.zip")}


def started(log):
    if not log.exists():
        return []
    return [
        key for what, key, *_ in map(str.split, log.read_text().splitlines()) if what == "start"
    ]


def new_project(root, count=8):
    project = Project.create(root, registry=number_registry(), placement=Placement("in_process"))
    project.run("numbers.make_range", count=count)
    return project


def results(root):
    with Project.open(root, registry=number_registry()) as project:
        jobs = project.jobs()
        assert [job.status for job in jobs] == [JobStatus.DONE] * 3
        assert not project.store.layout.lock.exists()
        return [job.output().rows() for job in jobs], [job.metrics for job in jobs]


def expected(root, count):
    with new_project(root, count) as project:
        powers = project.run("numbers.raise_power", numbers="j1", chunk=1, pause_s=0.001)
        project.run("numbers.sum_up", numbers=powers, chunk=8)
    return results(root)


def check(tmp_path, n_kills, seed):
    """Kill the driver so often while there is work, then let it finish; check every restart."""
    moments = random.Random(seed)
    root, log, count = tmp_path / "killed", tmp_path / "log", 12 * n_kills
    new_project(root, count).close()
    n_chunks, n_in_work = count + 3 * -(-count // 8), 0
    for number in range(n_kills):
        before, n_before = finished(root), len(started(log))
        process = start_driver(root, log)
        if number % 4 == 3:  # at any time, also while the driver or its workers start
            time.sleep(moments.uniform(0.0, 2.0))
        else:  # in the middle of the work, however slow the machine is
            n_more = moments.randrange(1, 12)
            while len(finished(root) - before) < n_more and process.poll() is None:
                time.sleep(0.005)
            time.sleep(moments.uniform(0.0, 0.1))
        kill_and_wait_for_orphans(process)
        again = before & set(started(log)[n_before:])
        assert not again, "a chunk whose result existed was run again"
        n_in_work += before != finished(root)
    before, n_before = finished(root), len(started(log))
    process = start_driver(root, log)
    assert process.communicate(timeout=120)[0] == "done\n"
    assert not before & set(started(log)[n_before:])
    assert len(started(log)) - n_chunks <= 2 * n_kills, "more was lost than was in flight"
    assert n_in_work >= n_kills / 2
    check_results(root, expected(tmp_path / "whole", count))


def check_results(root, wanted):
    rows, metrics = results(root)
    for got, expected_rows in zip(rows, wanted[0], strict=True):
        assert got.drop("x_noise", strict=False).equals(expected_rows.drop("x_noise", strict=False))
    assert metrics == wanted[1]


@pytest.mark.timeout(120)
def test_driver_killed_twice_loses_and_repeats_nothing(tmp_path):
    check(tmp_path, n_kills=2, seed=5)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_driver_killed_twenty_times_loses_and_repeats_nothing(tmp_path):
    check(tmp_path, n_kills=20, seed=20)


def test_script_without_main_guard_runs(tmp_path):
    new_project(tmp_path / "p").close()
    script = tmp_path / "script.py"
    script.write_text(DRIVER)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "p"), str(tmp_path / "log")],
        cwd=Path(__file__).parents[2],
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "open\ndone\n"
    assert done.stderr == ""
