"""A full disk: said clearly, nothing half written, and the job goes on once there is space."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TREE = Path(__file__).parents[2]

FULL_DISK = """
import json, sys, zipfile
from pathlib import Path
from tests.engine.bulky_protocols import bulky_registry
from verglas.api.project import Project
from verglas.core.errors import VerglasError
from verglas.engine.placement import Placement

root = Path(sys.argv[1])
placement = Placement("in_process") if sys.argv[2] == "here" else Placement(workers=2, cores=2)
filler = root / "filler"
report = {}
with Project.create(root / "p", registry=bulky_registry(), placement=placement) as project:
    filler.write_bytes(bytes(3_000_000))
    try:
        project.run("bulk.make_much")
    except VerglasError as error:
        report["error"] = [type(error).__name__, str(error)]
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
print(json.dumps(report))
"""


def run_on_small_disk(tmp_path, where):
    """Run the script on a disk of 6 MB that only its process sees."""
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare")
    mount = f'mount -t tmpfs -o size=6m none {tmp_path} && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount, "sh",
         sys.executable, "-c", FULL_DISK, str(tmp_path), where],
        capture_output=True, text=True, cwd=TREE, timeout=60, check=False,
    )  # fmt: skip
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("may not mount a small disk")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("where", ["here", "workers"])
def test_full_disk_is_a_user_error_and_the_job_resumes(tmp_path, where):
    report = run_on_small_disk(tmp_path, where)
    kind, message = report["error"]
    assert kind == "UserError"
    assert "no space left on device; free some space and run again" in message
    assert report["status"] == "failed"
    assert 0 < report["n_whole"] < 12
    assert report["is_sound"]
    assert report["n_partial"] == 0
    assert report["resumed"] == "done"
    assert report["n_items"] == 12
    assert report["reused"] == report["n_whole"]


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
