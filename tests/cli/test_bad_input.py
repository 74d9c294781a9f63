"""What goes wrong for people: each gets a clear message, the right exit code, nothing lost."""

import os

import numpy as np
import pytest

from verglas.api.project import Project
from verglas.io.mrc import write_mrc

IMPORT = ("run", "micrographs.import", "--workers", "0")


@pytest.fixture
def images(tmp_path):
    """Two good images, an empty file, a cut one, and text."""
    folder = tmp_path / "raw"
    folder.mkdir()
    for name in ("good1.mrc", "good2.mrc", "cut.mrc"):
        write_mrc(folder / name, np.ones((40, 50), np.float32), 1.5)
    content = (folder / "cut.mrc").read_bytes()
    (folder / "cut.mrc").write_bytes(content[:-100])
    (folder / "empty.mrc").write_bytes(b"")
    (folder / "text.mrc").write_text("this is no image\n" * 100)
    return folder


def test_unreadable_micrographs_are_named_and_left_out(toy, images):
    answer = toy(
        *IMPORT, "--files", *sorted(images.iterdir()), "--pixel-size-angst", "1.5", "--json"
    )
    assert answer.code == 0
    assert answer.json["outputs"][0]["n_items"] == 2
    warnings = " ".join(answer.json["warnings"])
    assert [name for name in ("cut.mrc", "empty.mrc", "text.mrc") if name not in warnings] == []


def test_warnings_are_shown_to_people(toy, images):
    answer = toy(*IMPORT, "--files", images, "--pixel-size-angst", "1.5")
    assert answer.code == 0
    assert answer.err.count("warning: ") == 3


def test_header_that_contradicts_the_pixel_size_is_a_warning(toy, images):
    answer = toy(*IMPORT, "--files", images / "good1.mrc", "--pixel-size-angst", "1.2")
    assert answer.code == 0
    assert "1.5000 Å" in answer.err


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["raw/cut.mrc", "raw/empty.mrc"], "none of the 2 files is a micrograph"),
        (["raw/absent.mrc"], "nothing matches"),
        (["raw/*.eer"], "nothing matches"),
    ],
)
def test_no_readable_file_at_all_fails_the_job(toy, images, files, message):
    answer = toy(*IMPORT, "--files", *files)
    assert answer.code == 1
    assert message in answer.err
    assert "Traceback" not in answer.err


def test_second_writer_is_told_who_writes(toy, images, tmp_path):
    with Project.open(tmp_path / "p") as project, project.store.writing():
        answer = toy(*IMPORT, "--files", images / "good1.mrc")
        assert answer.code == 2
        assert f"is being written by process {os.getpid()}" in answer.err
        assert toy("jobs").code == 0
    assert toy(*IMPORT, "--files", images / "good1.mrc").code == 0


def test_wrong_kind_for_a_port_is_refused(make, toy, images):
    make("micrographs.import", "--files", images / "good1.mrc")
    make("numbers.make_row")
    answer = make("micrographs.estimate_ctf", "-i", "d2")
    assert answer.code == 2
    assert "takes micrographs: got data set 'd2' (numbers)" in answer.err


def test_missing_columns_are_named_with_the_protocol_that_makes_them(toy, tmp_path):
    write_mrc(tmp_path / "map.mrc", np.ones((8, 8, 8), np.float32), 2.0, is_stack=False)
    answer = toy("run", "volumes.postprocess", "-i", "volumes=map.mrc", "--workers", "0")
    assert answer.code == 2
    assert "lacks half_map_1_path" in answer.err
    assert "run particles.refine_3d first" in answer.err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("format_version = 99\nname = 'p'\n", "install a newer version"),
        ("name = [", "cannot be read"),
    ],
)
def test_project_that_cannot_be_read_is_refused(toy, tmp_path, content, message):
    (tmp_path / "p/project.toml").write_text(content)
    answer = toy("jobs")
    assert answer.code == 2
    assert message in answer.err


def test_damaged_job_does_not_hide_the_others(make, toy, tmp_path):
    make("numbers.make_row")
    make("numbers.make_row", "--count", "2")
    (tmp_path / "p/jobs/0001-make_row/job.json").write_text("{")
    assert toy("reindex").code == 0
    assert [job["id"] for job in toy("jobs", "--json").json] == ["j2"]


def test_damaged_table_is_named(make, toy, tmp_path):
    make("numbers.make_row")
    (table,) = (tmp_path / "p/jobs").glob("*/outputs/numbers/table.parquet")
    table.write_bytes(table.read_bytes()[:-50])
    answer = toy("show", "d1")
    assert answer.code == 2
    assert "damaged data set" in answer.err
