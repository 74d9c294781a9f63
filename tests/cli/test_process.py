"""`verglas process` and `verglas demo`: what is understood before anything runs."""

import json
from pathlib import Path

import pytest

from verglas.cli import demo
from verglas.cli.process import find_images

GIVEN = (
    "--project", "p", "--pixel-size-angst", "1.5", "--diameter-angst", "130", "--symmetry", "O",
)  # fmt: skip


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    for name in ("b.mrc", "a.tif", "notes.txt"):
        (folder / name).write_bytes(b"")
    return folder


def test_help_lists_the_steps(cli):
    text = cli("process", "--help").out
    assert "refine: refine two independent half maps [particles.refine_3d]" in text
    assert "The box is 1.8 diameters" in text


def test_template_is_written_instead_of_run(cli, images, tmp_path):
    answer = cli("process", images, *GIVEN, "--write-template", "flow.json")
    assert answer.code == 0
    template = json.loads((tmp_path / "flow.json").read_text())
    first = template["nodes"][0]
    assert first["params"]["files"] == [str(images / "a.tif"), str(images / "b.mrc")]
    assert first["params"]["spherical_aberration_mm"] == 2.7
    refine = next(node for node in template["nodes"] if node["name"] == "refine")
    assert refine["params"]["symmetry"] == "O"
    assert refine["inputs"]["reference"] == ["initial.volumes"]
    assert not (tmp_path / "p").exists()


def test_files_are_found_by_name_folder_and_pattern(images, monkeypatch):
    monkeypatch.chdir(images.parent)
    a, b = str(images / "a.tif"), str(images / "b.mrc")
    assert find_images(["raw"], are_movies=False) == (a, b)
    assert find_images(["raw/*.mrc", "raw/a.tif", "raw/b.mrc"], are_movies=False) == (b, a)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.mrc", *GIVEN], "no file 'nothing.mrc'"),
        (["raw/*.eer", *GIVEN], "no file 'raw/*.eer'"),
        (["raw", *GIVEN, "--atoms", "no.pdb"], "--atoms takes an mmCIF or PDB file"),
        (["raw", *GIVEN, "--set", "pick"], "expected STEP.PARAM=VALUE"),
        (["raw", *GIVEN, "--set", "peak.threshold=1"], "no step 'peak'"),
        (["raw", *GIVEN, "--set", "pick.treshold_shift=1"], "did you mean 'threshold_shift'"),
        (["raw", *GIVEN, "--set", "pick.n_rounds=many"], "n_rounds: got 'many'"),
        (["raw", *GIVEN, "--diameter-angst", "-3"], "diameter_angst: got -3.0 Å, expected >"),
        (["raw", "--project", "p"], "--pixel-size-angst"),
        ([*GIVEN], "FILES"),
    ],
)
def test_wrong_use_is_refused_before_anything_runs(cli, images, arguments, message):
    answer = cli("process", *arguments)
    assert answer.code == 2
    assert message in answer.err
    jobs = Path("p/jobs")
    assert not jobs.exists() or not list(jobs.iterdir())


def test_demo_finds_its_data_in_the_repository(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    folder = demo.find_demo_data()
    assert len(list(folder.glob("*.tif"))) == 14
    assert (folder / "6z6u.cif.gz").is_file()


def test_demo_knows_only_the_acquisition_the_diameter_and_the_symmetry():
    settings = demo.real_settings(n_micrographs=None)
    assert settings.pixel_size_angst == 1.5
    assert settings.spherical_aberration_mm == 0.001
    assert settings.amplitude_contrast == 0.07
    assert (settings.diameter_angst, settings.symmetry) == (130.0, "O")
    assert len(settings.files) == 14
