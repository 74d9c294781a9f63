"""The cluster on this machine: budget of cores, dead workers, cancelling, nothing left behind."""

import os
import threading
import time

import psutil
import pytest

from tests.api.test_run import n_runs, values
from tests.engine.number_protocols import number_registry
from verglas.api.project import Project
from verglas.core.errors import TaskFailed, UserError
from verglas.engine.cluster import LocalCluster, SiteCluster
from verglas.engine.placement import Placement
from verglas.engine.pool import close_executors, get_executor
from verglas.project.record import JobStatus
from verglas.sdk import JobCancelled

TWO = Placement(workers=2, cores=2)


@pytest.fixture(scope="module", autouse=True)
def _end_cluster():
    yield
    close_executors()
    assert not workers(), "worker processes were left behind"


@pytest.fixture
def project(tmp_path):
    with Project.create(tmp_path / "p", registry=number_registry(), placement=TWO) as project:
        project.run("numbers.make_range", count=12)
        yield project


def workers():
    """Worker processes that this process started."""
    found = []
    for child in psutil.Process().children():
        try:
            if "serve_worker" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def lines(log):
    return [line.split() for line in log.read_text().splitlines()]


def test_cluster_gives_the_same_result_as_this_process(project):
    far = project.run("numbers.raise_power", numbers="j1", chunk=2)
    project.placement = Placement("in_process")
    near = project.run("numbers.raise_power", numbers="j1", chunk=2, cpus=2)
    assert far.output().rows().equals(near.output().rows())
    assert far.id != near.id


def test_chunks_run_in_two_other_processes_with_one_thread_each(project, tmp_path):
    log = tmp_path / "log"
    project.run("numbers.raise_power", numbers="j1", chunk=1, pause_s=0.1, side_log=str(log))
    processes = {process for _, _, process, _ in lines(log)}
    assert len(processes) == 2
    assert str(os.getpid()) not in processes
    assert {threads for *_, threads in lines(log)} == {"1"}


def test_chunk_that_asks_for_two_cores_runs_alone(project, tmp_path):
    log = tmp_path / "log"
    project.run(
        "numbers.raise_power", numbers="j1", chunk=3, cpus=2, pause_s=0.05, side_log=str(log)
    )
    whats = [what for what, *_ in lines(log)]
    assert whats == ["start", "end"] * 4, "chunks overlapped"
    assert {threads for *_, threads in lines(log)} == {"2"}


def test_single_chunk_gets_all_cores(project, tmp_path):
    log = tmp_path / "log"
    project.run("numbers.raise_power", numbers="j1", chunk=12, side_log=str(log))
    assert {threads for *_, threads in lines(log)} == {"2"}


def test_two_jobs_at_once_share_the_cores(project, tmp_path):
    log = tmp_path / "log"
    options = {"numbers": "j1", "chunk": 2, "pause_s": 0.1, "side_log": str(log), "wait": False}
    jobs = [project.run("numbers.raise_power", power=power, **options) for power in (2, 3)]
    for job in jobs:
        assert job.wait(20).status is JobStatus.DONE
    running = highest = 0
    for what, *_ in lines(log):
        running += 1 if what == "start" else -1
        highest = max(highest, running)
    assert highest == 2


def test_error_in_a_worker_names_the_chunk_and_keeps_the_others(project, tmp_path):
    log = tmp_path / "log"
    with pytest.raises(TaskFailed, match="1 of 6 chunks of power_of failed: ValueError"):
        project.run("numbers.raise_power", numbers="j1", chunk=2, bad=[5], side_log=str(log))
    assert n_runs(log, "end") == 5
    assert "Traceback" in project.log("j2")


def test_poison_chunk_stops_after_three_attempts_and_the_others_go_on(project, tmp_path):
    log = tmp_path / "log"
    with pytest.raises(TaskFailed, match=r"1 of 4 chunks .* lost 3 times, last: .*SIGKILL"):
        project.run("numbers.raise_power", numbers="j1", chunk=3, deadly=[4], side_log=str(log))
    assert n_runs(log, "end") == 3
    assert n_runs(log, "start") == 6


def test_killed_worker_costs_only_its_chunk(project, tmp_path):
    log = tmp_path / "log"
    job = project.run(
        "numbers.raise_power",
        numbers="j1", chunk=1, pause_s=0.15, side_log=str(log), wait=False,
    )  # fmt: skip
    while n_runs(log, "end") < 3:
        time.sleep(0.01)
    workers()[0].kill()
    assert job.wait(30).status is JobStatus.DONE
    assert values(job.output()) == [i * i for i in range(12)]
    assert 12 <= n_runs(log, "end") <= n_runs(log, "start") <= 13


def test_cancelling_stops_running_chunks_at_once_and_resuming_goes_on(project, tmp_path):
    log = tmp_path / "log"
    options = {"numbers": "j1", "chunk": 1, "pause_s": 0.3, "side_log": str(log)}
    job = project.run("numbers.raise_power", **options, wait=False)
    while n_runs(log, "end") < 2:
        time.sleep(0.01)
    started_s = time.monotonic()
    job.cancel()
    with pytest.raises(JobCancelled):
        job.wait(5)
    assert time.monotonic() - started_s < 1.0
    finished = n_runs(log, "end")
    time.sleep(0.4)
    assert n_runs(log, "end") == finished, "a chunk went on after the cancel"
    project.run("numbers.raise_power", **options)
    in_flight = 2  # they may have ended, but for the rename of their result
    assert 12 <= n_runs(log, "end") <= 12 + in_flight


def test_progress_counts_parts_of_running_chunks(project):
    updates = []
    project.run("numbers.raise_power", numbers="j1", chunk=6, pause_s=1.0, show=updates.append)
    assert any(0 < update.done < 12 for update in updates)
    assert updates[-1].done == updates[-1].total == 12
    assert max(update.n_running for update in updates) == 2


def test_log_of_chunks_reaches_the_job(project):
    job = project.run("numbers.raise_power", numbers="j1", chunk=6)
    assert job.log().count("powers of 6 numbers") == 2
    assert not list((job.folder / "live").glob("*"))


def test_nothing_listens_beyond_loopback(project):
    project.run("numbers.raise_power", numbers="j1")
    listening = [
        connection
        for process in [psutil.Process(), *workers()]
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert {connection.laddr.ip for connection in listening} == {"127.0.0.1"}


def test_messages_carry_no_tables(project):
    from distributed.protocol import serialize

    sent = []
    cluster = get_executor(TWO)
    original = cluster._send

    def spy(slot, flight):
        sent.append(flight.unit)
        original(slot, flight)

    cluster._send = spy
    project.run("numbers.raise_power", numbers="j1", chunk=2)
    cluster._send = original
    _header, frames = serialize(sent[0])
    assert sum(len(frame) for frame in frames) < 2000


def test_cores_and_workers_decide_how_many_chunks_run_at_once():
    cluster = LocalCluster(n_workers=4, n_cores=8, gpus=[0, 1])
    assert cluster.threads == 2
    assert cluster.capacity(cpus=1, gpus=0) == 4
    assert cluster.capacity(cpus=4, gpus=0) == 2
    assert cluster.capacity(cpus=64, gpus=0) == 1
    assert cluster.capacity(cpus=1, gpus=1) == 2


def test_scheduler_beyond_this_machine_needs_certificates():
    with pytest.raises(UserError, match="expected TLS certificates"):
        SiteCluster("tcp://cluster.example.org:8786")


def test_any_scheduler_address_takes_the_chunks(project):
    import distributed

    done = threading.Event()
    cluster = distributed.LocalCluster(
        n_workers=1,
        threads_per_worker=2,
        processes=False,
        protocol="tcp://",
        host="127.0.0.1",
        scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
    )
    try:
        placement = Placement(scheduler=cluster.scheduler_address)
        job = project.run("numbers.raise_power", numbers="j1", chunk=2, placement=placement)
        assert values(job.output()) == [i * i for i in range(12)]
        get_executor(placement).close()
        done.set()
    finally:
        cluster.close()
    assert done.is_set()
