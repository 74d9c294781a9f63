import json
import pickle
import shutil
import subprocess
import sys
import time

import polars as pl
import pytest

from tests.model.frames import OPTICS, micrograph_rows, micrographs, with_ctf
from verglas.core.errors import EngineError, FormatError
from verglas.model import MICROGRAPHS, make_dataset, open_dataset, write_dataset
from verglas.model.dataset_files import is_dataset, read_manifest


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def stored(tmp_path):
    """A data set as a job leaves it."""
    return write_dataset(micrographs(tmp_path), tmp_path / "jobs" / "1" / "outputs" / "all")


def test_data_set_is_read_as_written(tmp_path, stored):
    made = micrographs(tmp_path)
    assert names(stored.folder) == ["dataset.json", "optics.parquet", "table.parquet"]
    assert stored.rows().equals(made.rows())
    assert stored.optics.equals(made.optics)
    assert (stored.kind, stored.n_items, stored.content) == (MICROGRAPHS, 5, made.content)
    assert stored.root == tmp_path.resolve()


def test_selection_stores_ids_only(tmp_path, stored):
    kept = write_dataset(stored.select([10, 50]), tmp_path / "jobs" / "2" / "kept")
    assert names(kept.folder) == ["dataset.json", "optics.parquet", "overlay.parquet"]
    assert pl.read_parquet(kept.folder / "overlay.parquet").columns == ["item_id"]
    assert kept.rows()["image_path"].to_list() == ["import/000.mrc", "import/004.mrc"]
    assert kept.content == stored.select([10, 50]).content


def test_new_columns_are_stored_alone(tmp_path, stored):
    data = write_dataset(with_ctf(stored), tmp_path / "ctf")
    assert len(pl.read_parquet(data.folder / "overlay.parquet").columns) == 5
    assert data.rows().equals(with_ctf(stored).rows())


def test_derivation_of_a_stored_derivation_rests_on_the_first(tmp_path, stored):
    ctf = write_dataset(with_ctf(stored), tmp_path / "ctf")
    kept = write_dataset(ctf.select([20]), tmp_path / "kept")
    assert read_manifest(kept.folder)["base"] == "jobs/1/outputs/all"
    assert kept.rows(["item_id", "defocus_u_angst"]).rows() == [(20, 200.0)]
    shutil.rmtree(ctf.folder)
    assert open_dataset(kept.folder).rows().height == 1


def test_materialised_data_set_needs_no_base(tmp_path, stored):
    data = write_dataset(stored.select([20]), tmp_path / "kept", is_materialised=True)
    shutil.rmtree(stored.folder)
    assert open_dataset(data.folder).rows()["item_id"].to_list() == [20]


def test_derivation_of_a_data_set_in_memory_is_written_whole(tmp_path):
    data = write_dataset(micrographs(tmp_path).select([20]), tmp_path / "kept")
    assert "table.parquet" in names(data.folder)


def test_project_can_be_moved(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    base = write_dataset(micrographs(old), old / "jobs" / "1" / "all")
    kept = write_dataset(base.select([20]), old / "jobs" / "2" / "kept")
    old.rename(new)
    moved = open_dataset(new / kept.folder.relative_to(old.resolve()))
    assert moved.root == new.resolve()
    assert moved.path(moved.rows()["image_path"][0]) == new.resolve() / "import" / "003.mrc"


def test_stored_data_set_travels_as_a_path(stored):
    message = pickle.dumps(stored)
    assert len(message) < 500
    assert pickle.loads(message).rows().equals(stored.rows())


def test_id_stays_with_the_data_set_on_its_way(stored):
    named = open_dataset(stored.folder, dataset_id="d41")
    assert pickle.loads(pickle.dumps(named)).name == "data set 'd41' (micrographs)"
    assert named.select([10]).source == ("d41",)


def test_writing_the_same_again_changes_nothing(tmp_path, stored):
    before = (stored.folder / "dataset.json").stat().st_mtime_ns
    write_dataset(micrographs(tmp_path), stored.folder)
    assert (stored.folder / "dataset.json").stat().st_mtime_ns == before


def test_stored_data_set_is_never_overwritten(tmp_path, stored):
    with pytest.raises(EngineError, match="already has other content"):
        write_dataset(with_ctf(micrographs(tmp_path)), stored.folder)


def test_nothing_there_is_a_format_error(tmp_path):
    assert not is_dataset(tmp_path)
    with pytest.raises(FormatError, match=r"no data set in .* dataset.json is missing"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', "null", '{"files": 3}'])
def test_damaged_manifest_is_a_format_error(stored, text):
    (stored.folder / "dataset.json").write_text(text)
    with pytest.raises(FormatError, match="damaged data set"):
        open_dataset(stored.folder)


def test_newer_format_is_named(stored):
    path = stored.folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    with pytest.raises(FormatError, match="has format 2: expected 1; open it with a newer"):
        open_dataset(stored.folder)


def test_truncated_table_is_found_on_opening(stored):
    table = stored.folder / "table.parquet"
    n_bytes = table.stat().st_size
    table.write_bytes(table.read_bytes()[:100])
    with pytest.raises(FormatError, match=f"has 100 bytes, expected {n_bytes} bytes"):
        open_dataset(stored.folder)
    table.unlink()
    with pytest.raises(FormatError, match="has no file, expected"):
        open_dataset(stored.folder)


def test_damaged_optics_are_found_on_opening(stored):
    optics = stored.folder / "optics.parquet"
    optics.write_bytes(bytes(optics.stat().st_size))
    with pytest.raises(FormatError, match=r"cannot read .*optics.parquet"):
        open_dataset(stored.folder)


def test_missing_base_is_named(tmp_path, stored):
    kept = write_dataset(stored.select([20]), tmp_path / "kept")
    shutil.rmtree(stored.folder)
    with pytest.raises(FormatError, match=r"rests on one that cannot be opened: no data set in"):
        open_dataset(kept.folder)


def test_changed_base_is_found(tmp_path, stored):
    kept = write_dataset(stored.select([20]), tmp_path / "kept")
    shutil.rmtree(stored.folder)
    other = make_dataset(MICROGRAPHS, micrograph_rows(6), root=tmp_path, optics=OPTICS)
    write_dataset(other, stored.folder)
    with pytest.raises(FormatError, match=r"base of data set .* has changed"):
        open_dataset(kept.folder)


def test_kind_that_is_not_installed_still_opens(stored):
    path = stored.folder / "dataset.json"
    path.write_text(path.read_text().replace('"micrographs"', '"diffractograms"'))
    assert open_dataset(stored.folder).kind.id == "diffractograms"


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np, polars as pl
from verglas.core.errors import UserError
from verglas.model import CURVES, make_dataset, write_dataset
root = Path(sys.argv[1])
rows = pl.DataFrame({"label": ["a"], "x_per_angst": [np.random.rand(9000)], "y": [[1.0]]})
data = make_dataset(CURVES, rows, root=root)
for n_bytes in (10, 1000, 20_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, resource.RLIM_INFINITY))
    try:
        write_dataset(data, root / "curves")
    except UserError as error:
        print(error)
"""


def test_full_disk_leaves_no_data_set(tmp_path):
    """A limit on the size of files stands for a full disk; both are errors of writing."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert all("cannot write" in line and "free some space" in line for line in lines)
    assert names(tmp_path) == []


def test_opening_and_selecting_does_not_slow_down_with_columns(tmp_path):
    """A small form of benchmarks/datasets.py, with generous limits."""
    n = 50_000
    rows = pl.select(item_id=pl.int_range(n), image_slice=pl.int_range(n)).with_columns(
        pl.lit("a.mrcs").alias("image_path"),
        pl.lit(1).alias("optics_group"),
        *(pl.int_range(n).cast(pl.Float64).alias(f"x_{i}") for i in range(26)),
    )
    base = make_dataset(MICROGRAPHS, rows, root=tmp_path, optics=OPTICS)
    folder = write_dataset(base, tmp_path / "all").folder
    start = time.perf_counter()
    data = open_dataset(folder)
    opened = time.perf_counter()
    kept = write_dataset(data.select(data.table.filter(pl.col("x_3") < 100)), tmp_path / "kept")
    done = time.perf_counter()
    assert kept.n_items == 100
    assert opened - start < 0.1
    assert done - opened < 1.0
