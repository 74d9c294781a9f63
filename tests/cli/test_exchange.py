"""Import and export through the command line, and simulation."""

import shutil
from pathlib import Path

import polars as pl
import polars.testing
import pytest
from typer.testing import CliRunner

from verglas.api.exchange import resolve_input
from verglas.api.project import Project
from verglas.cli.main import app
from verglas.engine.placement import Placement
from verglas.io.mrc import read_mrc, write_mrc
from verglas.io.star import read_star
from verglas.kernels.masks import soft_sphere

SMALL = ("--n-particles", "6", "--box-px", "32", "--pixel-size-angst", "6", "--workers", "0")
LEFT_BEHIND = {"item_id", "source_id", "micrograph_id", "loglik"}


@pytest.fixture(scope="module")
def particles(tmp_path_factory):
    """Six particles with truth, simulated once."""
    folder = tmp_path_factory.mktemp("simulated") / "s"
    result = CliRunner().invoke(app, ["simulate", "particles", str(folder), *SMALL])
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def simulated(cli, particles, tmp_path):
    """A copy of them in the folder s."""
    shutil.copytree(particles, tmp_path / "s")
    return cli


def rows_of(folder, ref):
    with Project.open(folder) as project:
        return project.dataset(ref).rows(with_optics=True)


def assert_round_trip(before, after):
    """Every column that RELION has a name for comes back."""
    shared = [name for name in before.columns if name in after.columns and name not in LEFT_BEHIND]
    for name in shared:
        if name.endswith("_path"):
            continue
        pl.testing.assert_series_equal(before[name], after[name], rel_tol=1e-12, abs_tol=1e-7)
    return set(shared)


def test_simulated_particles_come_with_truth_as_star_and_mrc(simulated, tmp_path):
    files = simulated("simulate", "particles", "s", *SMALL, "--json").json["files"]
    assert sorted(files) == ["particles", "true_particles", "volume"]
    truth = read_star(tmp_path / "s/true_particles.star")["particles"]
    assert truth.height == 6
    assert {"rlnAngleRot", "rlnDefocusU", "rlnOriginXAngst"} <= set(truth.columns)
    stack = tmp_path / "s" / truth["rlnImageName"][0].partition("@")[2]
    assert read_mrc(stack)[0].shape == (6, 32, 32)
    assert read_mrc(tmp_path / "s/volume.mrc")[0].shape == (32, 32, 32)


def test_simulate_refuses_what_it_does_not_know(simulated):
    answer = simulated("simulate", "particles", "t", "--boxsize", "3")
    assert answer.code == 2
    assert "no option '--boxsize'" in answer.err


@pytest.mark.parametrize("paths", ["relative", "absolute"])
def test_particles_go_to_relion_and_back(simulated, tmp_path, paths):
    arguments = ("s/jobs", "d2", tmp_path / "out/p.star", "--project", "s", "--paths", paths)
    assert simulated("export", *arguments[1:]).code == 0
    simulated("new", "q")
    answer = simulated("import", "out/p.star", "--project", "q", "--workers", "0", "--json")
    assert answer.json["protocol"] == "particles.import"
    before, after = rows_of("s", "d2"), rows_of("q", "d1")
    shared = assert_round_trip(before, after)
    assert {"defocus_u_angst", "angle_tilt_deg", "shift_x_angst", "box_px", "voltage_kv"} <= shared
    with Project.open("q") as project:
        data = project.dataset("d1")
        assert all(data.path(path).is_file() for path in after["image_path"])


def test_exported_table_is_the_same_after_a_round_trip(simulated):
    simulated("export", "d2", "a.star", "-p", "s")
    simulated("import", "a.star", "-p", "s", "--workers", "0")
    simulated("export", "j2.particles", "b.star", "-p", "s")
    first, second = read_star_pair("a.star", "b.star")
    assert first["particles"].equals(second["particles"].select(first["particles"].columns))
    assert first["optics"].equals(second["optics"].select(first["optics"].columns))


def read_star_pair(*names):
    return [read_star(Path(name)) for name in names]


def test_file_that_has_changed_is_read_again(simulated, tmp_path):
    simulated("export", "d2", "a.star", "-p", "s")
    again = ("import", "a.star", "-p", "s", "--workers", "0", "--json")
    assert simulated(*again).json["outputs"][0]["n_items"] == 6
    lines = (tmp_path / "a.star").read_text().rstrip().splitlines()
    (tmp_path / "a.star").write_text("\n".join(lines[:-1]) + "\n")
    record = simulated(*again).json
    assert (record["id"], record["outputs"][0]["n_items"]) == ("j2", 5)
    assert simulated(*again).json["outputs"] == record["outputs"]


def test_file_can_be_the_input_of_a_protocol(simulated):
    simulated("export", "d3", "v.mrc", "-p", "s")
    with Project.open("s", placement=Placement("in_process")) as project:
        spec = project.protocol("volumes.fsc")
        ref = resolve_input(project, spec, "volumes", "v.mrc")
        assert project.dataset(ref).kind.id == "volumes"
        assert project.jobs()[-1].protocol == "volumes.import"
        assert resolve_input(project, spec, "volumes", "v.mrc") == ref
        assert resolve_input(project, spec, "volumes", "d3") == "d3"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "d3", "v.star"], "maps are plain MRC files"),
        (["export", "d2", "p.mrc"], "only maps and masks are exported as MRC"),
        (["export", "d2", "p.xyz"], "cannot tell the format"),
        (["import", "none.star"], "no file"),
        (["import", "s/project.toml"], "cannot tell what"),
        (["run", "particles.extract", "-i", "micrographs=s/volume.mrc"], "takes micrographs"),
    ],
)
def test_what_cannot_be_exchanged_is_explained(simulated, arguments, message):
    answer = simulated(*arguments, "-p", "s")
    assert answer.code == 2
    assert message in answer.err


def test_any_table_is_exported_as_csv_and_parquet(simulated):
    assert simulated("export", "d2", "t.csv", "-p", "s").code == 0
    assert simulated("export", "d2", "t.parquet", "-p", "s").code == 0
    assert pl.read_csv("t.csv")["defocus_u_angst"].len() == 6
    assert pl.read_parquet("t.parquet")["pixel_size_angst"].to_list() == [6.0] * 6


def test_a_job_with_one_output_for_the_format_needs_no_port(simulated, tmp_path):
    # the job gave particles, the same with poses, and a map
    assert simulated("export", "j1", "map.mrc", "-p", "s").code == 0
    assert read_mrc(tmp_path / "map.mrc")[0].shape == (32, 32, 32)
    answer = simulated("export", "j1", "p.star", "-p", "s")
    assert answer.code == 2
    assert "j1.true_particles" in answer.err


def test_masks_are_imported_by_kind(simulated, tmp_path):
    write_mrc(tmp_path / "m.mrc", soft_sphere(16, 4.0, 3.0).numpy(), 6.0, is_stack=False)
    answer = simulated("import", "m.mrc", "--kind", "masks", "-p", "s", "--workers", "0", "--json")
    assert answer.json["protocol"] == "masks.import"
