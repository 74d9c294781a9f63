"""A full disk: said clearly, nothing half written, and the job goes on once there is space."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from verglas.project.store import INTERRUPTED

TREE = Path(__file__).parents[2]


def run_on_small_disk(tmp_path, script, argument):
    """Run a script on a disk of 6 MB that only its process sees."""
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare")
    mount = f'mount -t tmpfs -o size=6m none {tmp_path} && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount, "sh",
         sys.executable, "-c", script, str(tmp_path), argument],
        capture_output=True, text=True, cwd=TREE, timeout=60, check=False,
    )  # fmt: skip
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("may not mount a small disk")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


FULL_DISK = """
import json, sys, zipfile
from pathlib import Path
from tests.engine.bulky_protocols import bulky_registry
from verglas.api.project import Project
from verglas.core.errors import UserError
from verglas.engine.placement import Placement

root = Path(sys.argv[1])
placement = Placement("in_process") if sys.argv[2] == "here" else Placement(workers=2, cores=2)
filler = root / "filler"
report = {}
with Project.create(root / "p", registry=bulky_registry(), placement=placement) as project:
    filler.write_bytes(bytes(3_000_000))
    try:
        project.run("bulk.make_much")
    except UserError as error:
        report["error"] = str(error)
    report["status_here"] = project.job(1).status
record = json.loads(next(root.glob("p/jobs/*/job.json")).read_text())
report["status_on_disk"] = record["status"]
report["had_room"] = (root / "p" / ".reserve").exists()
with Project.open(root / "p", registry=bulky_registry(), placement=placement) as project:
    job = project.job(1)
    report["status"] = job.status
    whole = list(job.folder.glob("chunks/*/*.zip"))
    report["n_whole"] = len(whole)
    report["is_sound"] = all(zipfile.ZipFile(path).testzip() is None for path in whole)
    report["n_partial"] = len(list((root / "p").rglob("*.tmp*")))
    filler.unlink()
    job = project.resume(1)
    report["resumed"] = job.status
    report["n_items"] = job.output().n_items
    report["reused"] = job.record.steps[0].reused
    report["is_kept_back"] = (root / "p" / ".reserve").exists()
print(json.dumps(report))
"""


@pytest.mark.parametrize("where", ["here", "workers"])
def test_full_disk_is_a_user_error_and_the_job_resumes(tmp_path, where):
    report = run_on_small_disk(tmp_path, FULL_DISK, where)
    assert "no space left on device; free some space and run again" in report["error"]
    for state in ("status_here", "status_on_disk", "status"):
        assert report[state] == "failed", state
    assert 0 < report["n_whole"] < 12
    assert report["is_sound"]
    assert report["n_partial"] == 0
    assert report["resumed"] == "done"
    assert report["n_items"] == 12
    assert report["reused"] == report["n_whole"]
    assert report["is_kept_back"]


NO_ROOM_AT_ALL = """
import json, logging, sys
from pathlib import Path
from verglas.api.project import Project
from verglas.core.errors import DiskFull
from verglas.project.record import JobRecord, now

root = Path(sys.argv[1])
has_reserve = sys.argv[2] == "kept back"
filler = root / "filler"
warnings = []
handler = logging.Handler()
handler.emit = lambda record: warnings.append(record.getMessage())
logging.getLogger("verglas.project").addHandler(handler)


def fill_disk():
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                pass


def on_disk():
    return json.loads(next(root.glob("p/jobs/*/job.json")).read_text())["status"]


report = {}
with Project.create(root / "p") as project:
    with project.store.writing():
        record = JobRecord(number=1, protocol="a.do_b", version=1, status="running")
        project.store.save(record.with_moment("started"))
if not has_reserve:
    (root / "p" / ".reserve").unlink()
fill_disk()
with Project.open(root / "p") as project:
    job = project.job(1)
    report["shown"] = [job.status, job.record.error, project.graph().jobs[0].status]
    report["on_disk"] = on_disk()
    report["warnings"] = warnings[:]
    if has_reserve:
        project.note(1, "can be kept")
    else:
        try:
            project.note(1, "cannot be kept")
        except DiskFull as error:
            report["note"] = str(error)
        report["shown_again"] = project.job(1).status
filler.unlink()
with Project.open(root / "p") as project:
    report["later"] = [project.job(1).status, on_disk()]
    project.note(1, "kept")
    report["is_kept_back"] = (root / "p" / ".reserve").exists()
print(json.dumps(report))
"""


def test_space_kept_back_lets_an_interrupted_job_be_recorded_on_a_full_disk(tmp_path):
    report = run_on_small_disk(tmp_path, NO_ROOM_AT_ALL, "kept back")
    assert report["shown"][0] == report["on_disk"] == "failed"
    assert report["warnings"] == []
    assert report["is_kept_back"]


BEGIN_ON_FULL_DISK = """
import json, sys
from pathlib import Path
from tests.engine.bulky_protocols import bulky_registry
from verglas.api.project import Project
from verglas.core.errors import UserError
from verglas.engine.placement import Placement

root = Path(sys.argv[1])
report = {}
with Project.create(
    root / "p", registry=bulky_registry(), placement=Placement("in_process")
) as project:
    project.run("bulk.make_much", n_chunks=1, n_bytes=1000)
    with (root / "filler").open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                pass
    try:
        project.run("bulk.make_much", n_chunks=2)
    except UserError as error:
        report["error"] = str(error)
    project.delete(1)
with Project.open(root / "p") as project:
    report["jobs"] = [[job.status, job.record.deleted] for job in project.jobs()]
print(json.dumps(report))
"""


def test_no_job_runs_on_a_full_disk_but_one_can_be_deleted(tmp_path):
    report = run_on_small_disk(tmp_path, BEGIN_ON_FULL_DISK, "")
    assert "no space left on device" in report["error"]
    assert report["jobs"][0] == ["done", True]
    assert all(status in ("draft", "failed") for status, _ in report["jobs"][1:])


def test_project_opens_for_reading_without_any_space(tmp_path):
    report = run_on_small_disk(tmp_path, NO_ROOM_AT_ALL, "nothing")
    status, error, node_status = report["shown"]
    assert status == node_status == report["shown_again"] == "failed"
    assert error == INTERRUPTED
    assert report["on_disk"] == "running"
    assert len(report["warnings"]) == 1
    assert "could not be written down" in report["warnings"][0]
    assert "no space left on device" in report["warnings"][0]
    assert "no space left on device" in report["note"]
    assert report["later"] == ["failed", "failed"]
    assert report["is_kept_back"]


FILE_LIMIT = """
import resource, sys, json
from pathlib import Path
from tests.engine.bulky_protocols import bulky_registry
from verglas.api.project import Project
from verglas.core.errors import UserError
from verglas.engine.placement import Placement

with Project.create(sys.argv[1], registry=bulky_registry(), placement=Placement("in_process")) as p:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    try:
        p.run("bulk.make_much")
    except UserError as error:
        print(error)
    print(sorted(str(path.suffix) for path in p.job(1).folder.glob("chunks/*/*.zip")))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    print(p.resume(1).status)
"""


def test_limit_on_the_size_of_files_leaves_no_partial_result(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FILE_LIMIT, str(tmp_path / "p")],
        capture_output=True, text=True, cwd=TREE, timeout=60, check=True,
    )  # fmt: skip
    message, partial, status = done.stdout.splitlines()
    assert "file too large" in message
    assert partial == "[]"
    assert status == "done"
