import pytest

from tests.model.frames import micrographs, with_ctf
from verglas.model import COLUMNS, MICROGRAPHS
from verglas.sdk.viewer import (
    Curve,
    Gallery,
    Histogram,
    Image,
    OrientationMap,
    Panel,
    Picks,
    Scatter,
    Slices,
    Table,
    Text,
    Volume,
    viewer,
)

CTF = viewer(
    "micrographs.ctf",
    MICROGRAPHS,
    [Table(("fit_res_angst", "defocus_u_angst")), Image("spectrum_path"), Text("Thon rings")],
    needs=("ctf",),
)


def test_viewer_suits_what_has_its_traits(tmp_path):
    data = micrographs(tmp_path)
    assert not CTF.suits(data)
    assert CTF.suits(with_ctf(data))


def test_panels_name_their_columns():
    assert [panel.columns for panel in CTF.panels] == [
        ("fit_res_angst", "defocus_u_angst"),
        ("spectrum_path",),
        (),
    ]


@pytest.mark.parametrize(
    "panel",
    [
        Gallery(caption=("n_particles",), sort_by="score"),
        Picks(),
        Curve("profile_per_angst", ("profile_power", "profile_ctf2")),
        Histogram("fit_res_angst"),
        Scatter("defocus_u_angst", "fit_res_angst"),
        OrientationMap(),
        Slices(),
        Volume(threshold="threshold"),
    ],
    ids=lambda panel: type(panel).__name__,
)
def test_every_panel_shows_declared_columns(panel):
    assert isinstance(panel, Panel)
    assert set(panel.columns) <= set(COLUMNS)
    assert panel.columns
