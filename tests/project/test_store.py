import json
import shutil
import sqlite3
import subprocess
import sys

import pytest

from verglas.core.errors import FormatError, ProjectLocked, UserError
from verglas.project.layout import create_project, find_project
from verglas.project.record import Input, JobRecord, JobStatus, Output, Revision
from verglas.project.store import INTERRUPTED, Store


def a_record(number, *, inputs=(), outputs=(), **values):
    return JobRecord(
        number=number,
        protocol="numbers.make_some",
        version=1,
        status=values.pop("status", JobStatus.DONE),
        inputs=tuple(Input(port="numbers", dataset=dataset) for dataset in inputs),
        outputs=tuple(an_output(dataset, number) for dataset in outputs),
        environment={"python": "3.11"},
        **values,
    )


def an_output(dataset, job, revision=1):
    return Output(
        port="numbers",
        dataset=dataset,
        kind="curves",
        n_items=3,
        fingerprint=f"f{dataset}",
        folder=f"jobs/{job:04d}-make_some/outputs/numbers",
        traits=("curve",),
        revision=revision,
    )


@pytest.fixture
def layout(tmp_path):
    return create_project(tmp_path / "p")


@pytest.fixture
def store(layout):
    store = Store(layout)
    with store.writing():
        store.save(a_record(1, outputs=(1,)).with_moment("done"))
        store.save(a_record(2, inputs=(1,), outputs=(2, 3), label="second"))
    yield store
    store.close()


def test_new_project_is_found_again_and_not_made_twice(layout):
    assert find_project(layout.root) == layout
    assert layout.describe()["name"] == "p"
    with pytest.raises(UserError, match="is a project already"):
        create_project(layout.root)


def test_folder_without_project_is_refused_with_advice(tmp_path):
    with pytest.raises(UserError, match="verglas new"):
        find_project(tmp_path)


def test_project_of_a_newer_version_is_refused(layout):
    layout.manifest.write_text("format_version = 99\n")
    with pytest.raises(FormatError, match="format 99"):
        find_project(layout.root)


def test_record_comes_back_equal_from_folder_and_index(store):
    record = store.job(2)
    assert record.label == "second"
    assert record == store.jobs()[1]
    reopened = Store(store.layout)
    assert reopened.job(2) == record
    assert reopened.dataset(3).job == 2


def test_reading_needs_no_lock_and_writing_does(store):
    assert not store.layout.lock.exists()
    with pytest.raises(ProjectLocked, match="reading only"):
        store.save(a_record(3))
    with store.writing():
        assert store.layout.lock.exists()
    assert not store.layout.lock.exists()


def test_two_writers_are_kept_apart_while_readers_go_on(store):
    reader = Store(store.layout)
    with store.writing():
        with pytest.raises(ProjectLocked), reader.writing():
            pass
        assert len(Store(store.layout).jobs()) == 2


def test_numbers_are_never_used_twice(store):
    with store.writing():
        assert (store.new_job_number(), store.new_job_number()) == (3, 4)
        assert store.new_dataset_number() == 4
        store.save(a_record(4))
    with store.writing():
        assert store.new_job_number() == 5


def dump(layout):
    with sqlite3.connect(layout.database) as connection:
        lines = sorted(connection.iterdump())
    connection.close()
    return lines


def test_deleted_index_is_rebuilt_equal(store):
    before = dump(store.layout)
    store.close()
    store.layout.database.unlink()
    assert len(Store(store.layout).jobs()) == 2
    assert dump(store.layout) == before


def test_reindex_gives_the_same_index(store):
    before = dump(store.layout)
    assert store.reindex() == 2
    assert dump(store.layout) == before


def test_damaged_index_is_moved_aside_and_made_anew(store):
    store.close()
    store.layout.database.write_bytes(b"SQLite format 3\x00" + b"rubbish" * 500)
    assert len(Store(store.layout).jobs()) == 2
    assert store.layout.database.with_name("project.db.damaged").exists()


def test_record_changed_behind_the_index_is_taken_up(store):
    path = store.folder(store.job(2)) / "job.json"
    content = json.loads(path.read_text()) | {"label": "edited"}
    path.write_text(json.dumps(content))
    assert Store(store.layout).job(2).label == "edited"


def test_job_folder_that_vanished_leaves_the_index(store):
    shutil.rmtree(store.folder(store.job(2)))
    assert [record.number for record in Store(store.layout).jobs()] == [1]


def test_damaged_record_leaves_the_other_jobs_in_reach(store, caplog):
    (store.folder(store.job(1)) / "job.json").write_text("{}")
    records = Store(store.layout).jobs()
    assert 2 in [record.number for record in records]
    assert "is damaged" in caplog.text


def test_project_opens_at_another_path(store, tmp_path):
    store.close()
    shutil.move(store.layout.root, tmp_path / "elsewhere")
    assert len(Store(find_project(tmp_path / "elsewhere")).jobs()) == 2


def test_unknown_job_and_data_set_are_named(store):
    with pytest.raises(UserError, match="no job 'j9'"):
        store.job(9)
    with pytest.raises(UserError, match="no data set 'd9'"):
        store.dataset(9)


DIE_RUNNING = """
import os, sys
from pathlib import Path
from verglas.project.layout import find_project
from verglas.project.record import JobRecord
from verglas.project.store import Store
store = Store(find_project(Path(sys.argv[1])))
with store.writing():
    store.save(JobRecord(number=7, protocol="a.b", version=1, status="running"))
    os._exit(9)
"""


def test_job_of_a_killed_process_is_shown_as_interrupted(layout):
    subprocess.run([sys.executable, "-c", DIE_RUNNING, str(layout.root)], check=False)
    assert layout.lock.exists()
    record = Store(layout).job(7)
    assert record.status is JobStatus.FAILED
    assert record.error == INTERRUPTED
    assert not layout.lock.exists()


def test_replaced_output_stays_in_the_index_as_not_current(store):
    record = store.job(1)
    former = Revision(number=1, outputs=record.outputs)
    with store.writing():
        store.save(record.replace(revision=2, former=(former,), outputs=(an_output(9, 1, 2),)))
    assert not store.dataset(1).is_current
    assert store.dataset(9).is_current
