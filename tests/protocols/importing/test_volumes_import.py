import numpy as np
import pytest

from verglas.core.errors import FormatError, ParamsError, UserError
from verglas.io.mrc import write_mrc
from verglas.protocols.importing.volumes_import import ImportParams, Inputs, run
from verglas.sdk.testing import LocalContext, check_protocol


@pytest.fixture
def context(tmp_path):
    (tmp_path / "maps").mkdir()
    for name, box, pixel in (("a", 8, 1.5), ("b", 8, 1.5), ("c", 12, 1.0)):
        for part in ("", "_half1", "_half2"):
            cube = np.zeros((box,) * 3, np.float32)
            write_mrc(tmp_path / "maps" / f"{name}{part}.mrc", cube, pixel, is_stack=False)
    return LocalContext(tmp_path)


def imported(context, **params):
    return run(context, ImportParams(**params), Inputs()).volumes


def test_protocol_declares_what_it_should():
    assert check_protocol(run).id == "volumes.import"


def test_headers_give_pixel_size_and_box(context):
    rows = imported(context, files=["maps/[abc].mrc"], symmetry="o").rows(with_optics=True)
    assert rows["label"].to_list() == ["a", "b", "c"]
    assert rows["pixel_size_angst"].to_list() == pytest.approx([1.5, 1.5, 1.0])
    assert rows["box_px"].to_list() == [8, 8, 12]
    assert rows["optics_group"].to_list() == [1, 1, 2]
    assert rows["symmetry"].unique().to_list() == ["O"]
    assert rows["image_path"][0] == "maps/a.mrc"


def test_half_maps_belong_to_their_map(context):
    data = imported(
        context,
        files=["maps/a.mrc", "maps/c.mrc"],
        half_maps_1=["maps/a_half1.mrc", "maps/c_half1.mrc"],
        half_maps_2=["maps/a_half2.mrc", "maps/c_half2.mrc"],
    )
    assert "half_maps" in data.traits
    assert data.rows()["half_map_2_path"].to_list() == ["maps/a_half2.mrc", "maps/c_half2.mrc"]


def test_given_pixel_size_counts_and_disagreement_is_a_warning(context):
    rows = imported(context, files=["maps/a.mrc"], pixel_size_angst=1.46).rows(with_optics=True)
    assert rows["pixel_size_angst"][0] == 1.46
    assert any("1.5000" in text for text in context.warnings)
    context.warnings.clear()
    imported(context, files=["maps/a.mrc"], pixel_size_angst=1.501)
    assert context.warnings == []


def test_what_does_not_fit_is_refused(context, tmp_path):
    write_mrc(tmp_path / "slab.mrc", np.zeros((4, 8, 8), np.float32), 1.0, is_stack=False)
    with pytest.raises(FormatError, match="not a cube"):
        imported(context, files=["slab.mrc"])
    with pytest.raises(ParamsError, match="nothing matches"):
        imported(context, files=["absent.mrc"])
    with pytest.raises(ParamsError, match="point group"):
        imported(context, files=["maps/a.mrc"], symmetry="Q3")
    with pytest.raises(ParamsError, match="both sets"):
        imported(context, files=["maps/a.mrc"], half_maps_1=["maps/a_half1.mrc"])
    with pytest.raises(ParamsError, match="one for each"):
        imported(
            context,
            files=["maps/a.mrc", "maps/b.mrc"],
            half_maps_1=["maps/a_half1.mrc"],
            half_maps_2=["maps/a_half2.mrc"],
        )
    with pytest.raises(UserError, match="12 voxels"):
        imported(
            context,
            files=["maps/a.mrc"],
            half_maps_1=["maps/c_half1.mrc"],
            half_maps_2=["maps/c_half2.mrc"],
        )


def test_damaged_map_is_refused(context, tmp_path):
    whole = (tmp_path / "maps" / "a.mrc").read_bytes()
    (tmp_path / "short.mrc").write_bytes(whole[:-100])
    with pytest.raises(FormatError):
        imported(context, files=["short.mrc"])
