"""The Topaz plug-in on a recorded answer; the program itself is not needed."""

import sys
from pathlib import Path

import pytest

from tests.protocols.fields_project import DIAMETER, PIXEL, make_fields, micrographs_of, true_ctf
from verglas.core.errors import FormatError, ToolError, UserError
from verglas.core.registry import Registry, scan_package
from verglas.sdk.testing import LocalContext, check_protocol

_SOURCE = Path(__file__).parents[2] / "plugins/verglas-topaz/src"
_PICKS = "image_name\tx_coord\ty_coord\tscore\nm000000\t101\t52\t3.25\nm000001\t7\t300\t-0.5\n"
# stands for the program: keeps its arguments, and leaves the recorded picks
_PROGRAM = """#!{python}
import sys
with open("calls.txt", "a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
if sys.argv[1] == "extract":
    open("picks.txt", "w").write({picks!r})
"""


@pytest.fixture
def plugin(monkeypatch):
    monkeypatch.syspath_prepend(_SOURCE)
    from verglas_topaz.protocols import pick_topaz

    return pick_topaz


@pytest.fixture
def _program(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    path = folder / "topaz"
    path.write_text(_PROGRAM.format(python=sys.executable, picks=_PICKS))
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_plugin_adds_its_protocol_and_its_tool(plugin):
    registry = Registry()
    scan_package(registry, "verglas_topaz.protocols")
    scan_package(registry, "verglas_topaz.tools")
    assert not registry.broken
    assert list(registry.protocols) == ["micrographs.pick_topaz"]
    assert list(registry.tools) == ["topaz"]
    assert check_protocol(plugin.run).version == 1


@pytest.mark.usefixtures("_program")
def test_picks_become_coordinates(tmp_path, plugin):
    make_fields(tmp_path, 2)
    params = plugin.TopazParams(diameter_angst=DIAMETER, threshold=-1.0)
    inputs = plugin.Inputs(micrographs=micrographs_of(tmp_path, 2, **true_ctf(2)))
    ctx = LocalContext(tmp_path)
    rows = plugin.run(ctx, params, inputs).coordinates.rows()
    assert rows["micrograph_id"].to_list() == [0, 1]
    assert rows["coord_x_angst"].to_list() == [101 * PIXEL, 7 * PIXEL]
    assert rows["coord_y_angst"].to_list() == [52 * PIXEL, 300 * PIXEL]
    assert rows["score"].to_list() == [3.25, -0.5]
    assert rows["defocus_u_angst"].to_list() == [15150.0, 16150.0]
    # 120 Å are 60 px, 15 px after reduction by 4, so the radius is 8
    calls = (ctx.files / "topaz/calls.txt").read_text().splitlines()
    assert calls[0] == "preprocess -d -1 -s 4 -o small/ m000000.mrc m000001.mrc"
    assert calls[1].startswith("extract -m resnet16_u64 -r 8 -x 4 -d -1 -t -1.0 -o picks.txt")


def test_a_missing_program_is_told_with_advice(tmp_path, plugin, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    make_fields(tmp_path, 1)
    inputs = plugin.Inputs(micrographs=micrographs_of(tmp_path, 1))
    with pytest.raises(ToolError, match="topaz is not installed"):
        plugin.run(LocalContext(tmp_path), plugin.TopazParams(diameter_angst=120.0), inputs)


@pytest.mark.usefixtures("_program")
def test_other_formats_are_refused(tmp_path, plugin):
    micrographs = micrographs_of(tmp_path, 1, image_path=["data/picture.png"])
    with pytest.raises(UserError, match="topaz reads single MRC files"):
        plugin.run(
            LocalContext(tmp_path),
            plugin.TopazParams(diameter_angst=120.0),
            plugin.Inputs(micrographs=micrographs),
        )


def test_a_strange_table_is_refused(tmp_path, plugin):
    from verglas_topaz.tools.topaz import parse_picks

    with pytest.raises(FormatError, match="left no"):
        parse_picks(tmp_path)
    (tmp_path / "picks.txt").write_text("a\tb\n1\t2\n")
    with pytest.raises(FormatError, match="not a table of picks"):
        parse_picks(tmp_path)
