"""Die at every place where something is made lasting: the project opens, old or new, and goes on.

The script forks for each place, so that Python and polars are loaded once. A child runs two jobs
and ends, as if killed, just before or just after the k-th flush, rename, link or commit.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, os, shutil, sqlite3, sys
from pathlib import Path
from tests.engine.number_protocols import number_registry
from verglas.api.project import Project
import verglas.api.run, verglas.engine.worker  # noqa: loaded before forking
from verglas.engine.placement import Placement

base, first, stride = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
NAMES = ("fsync", "replace", "rename", "link", "unlink")


def die_at(k, is_before):
    count = 0
    for name in NAMES:
        original = getattr(os, name)
        def wrapped(*args, _original=original, **options):
            nonlocal count
            count += 1
            is_place = count == k
            if is_place and is_before:
                os._exit(9)
            try:
                return _original(*args, **options)
            finally:
                if is_place:
                    os._exit(9)
        setattr(os, name, wrapped)


def work(root):
    if not (root / "project.toml").exists():
        Project.create(root).close()
    with Project.open(root, registry=number_registry(), placement=Placement("in_process")) as p:
        made = p.run("numbers.make_range", count=4)
        powers = p.run("numbers.raise_power", numbers=made, chunk=2)
        total = p.run("numbers.sum_up", numbers=powers, n_iterations=2, chunk=4)
        assert powers.output().rows()["x_value"].to_list() == [0, 1, 4, 9]
        assert len(p.jobs()) <= 4, [job.record for job in p.jobs()]
        return powers.output().rows()["x_noise"].to_list(), total.metrics


def child(action, *args):
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    try:
        action(*args)
        sys.stdout.flush()
        os._exit(0)
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)


def work_and_die(root, k, is_before):
    die_at(k, is_before)
    work(root)


def work_on(root, wanted):
    assert json.loads(json.dumps(work(root))) == wanted
    left = [str(path) for path in root.rglob(".*.tmp*")]
    assert len(left) <= 1, left


def note(root, path):
    path.write_text(json.dumps(work(root)))


assert child(note, base / "whole", base / "wanted.json") == 0
wanted = json.loads((base / "wanted.json").read_text())
k, n_sites = first, 0
while True:
    root = base / f"site-{k}"
    code = child(work_and_die, root, k, bool(k % 2))
    if code == 0:
        break
    assert code == 9, code
    assert child(work_on, root, wanted) == 0, f"after dying at place {k}"
    shutil.rmtree(root)
    n_sites += 1
    k += stride
print(json.dumps({"sites": n_sites, "last": k}))
"""


def die_everywhere(tmp_path, first, stride):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), str(first), str(stride)],
        capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_dying_at_some_write_sites_loses_nothing(tmp_path):
    report = die_everywhere(tmp_path, first=5, stride=31)
    assert report["last"] > 100


@pytest.mark.slow
def test_dying_at_every_write_site_loses_nothing(tmp_path):
    report = die_everywhere(tmp_path, first=1, stride=1)
    assert report["sites"] > 100
