import numpy as np
import pytest

from verglas.core.errors import FormatError, ParamsError
from verglas.io.mrc import read_mrc
from verglas.protocols.volumes.from_atoms import FromAtomsParams, Inputs, run
from verglas.sdk.testing import LocalContext, check_protocol

# two carbons 20 Å apart along x, at z = 10
PDB = """\
ATOM      1  CA  ALA A   1      20.000   0.000  10.000  1.00 20.00           C
ATOM      2  CB  ALA A   1      40.000   0.000  10.000  1.00 20.00           C
END
"""


@pytest.fixture
def context(tmp_path):
    (tmp_path / "model.pdb").write_text(PDB)
    return LocalContext(tmp_path)


def volume_of(context, **params):
    outputs = run(context, FromAtomsParams(path="model.pdb", **params), Inputs())
    row = outputs.volume.rows(with_optics=True).row(0, named=True)
    volume, pixel = read_mrc(outputs.volume.path(row["image_path"]))
    assert pixel == pytest.approx(row["pixel_size_angst"])
    return volume, row


def two_brightest(volume):
    flat = np.argsort(volume.ravel())[-2:]
    return sorted(tuple(int(i) for i in np.unravel_index(f, volume.shape)) for f in flat)


def test_protocol_declares_what_it_should():
    assert check_protocol(run).id == "volumes.from_atoms"


def test_mass_comes_to_the_centre(context):
    volume, _ = volume_of(context, box_px=32, pixel_size_angst=2.0)
    assert two_brightest(volume) == [(16, 16, 11), (16, 16, 21)]


def test_origin_can_be_kept(context):
    volume, _ = volume_of(context, box_px=64, pixel_size_angst=2.0, centre="origin")
    assert two_brightest(volume) == [(37, 32, 42), (37, 32, 52)]


def test_box_follows_from_the_model(context):
    volume, row = volume_of(context, pixel_size_angst=1.0)
    assert volume.shape == (30, 30, 30)  # 1.3 times 20 Å is 26, the next even 5-smooth size
    assert row["box_px"] == 30


def test_low_pass_and_b_factor_lower_the_peaks(context):
    sharp, _ = volume_of(context, box_px=32)
    soft, row = volume_of(context, box_px=32, resolution_angst=6.0)
    blurred, _ = volume_of(context, box_px=32, b_factor_angst2=100.0)
    assert soft.max() < 0.5 * sharp.max()
    assert blurred.max() < 0.5 * sharp.max()
    assert row["resolution_angst"] == 6.0


def test_row_names_model_and_symmetry(context):
    _, row = volume_of(context, box_px=32, symmetry="o")
    assert row["symmetry"] == "O"
    assert row["atoms_path"] == "model.pdb"


def test_small_box_is_a_warning(context):
    volume_of(context, box_px=16, pixel_size_angst=1.0)
    assert any("larger than the box" in text for text in context.warnings)


def test_bad_symmetry_and_missing_file_are_refused(context):
    with pytest.raises(ParamsError, match="point group"):
        volume_of(context, symmetry="Q7")
    with pytest.raises(FormatError, match=r"absent\.pdb"):
        run(context, FromAtomsParams(path="absent.pdb"), Inputs())
