"""Panels: every kind is drawn, full or empty; what is gone is named."""

from dataclasses import replace

import polars as pl
import pytest

from tests.viewers import sets
from verglas.core.registry import load_registry
from verglas.model import KINDS, VOLUMES, make_dataset
from verglas.sdk.viewer import Gallery, Histogram, Image, Panel, Text, viewer
from verglas.viewers import builtin
from verglas.viewers.panels import best_viewers, draw_panel, draw_viewer, is_news
from verglas.viewers.picture import Missing, Picture
from verglas.viewers.scene import Scene, TextTable, broken_limits, chosen_row, row_name

VIEWERS = [getattr(builtin, name) for name in builtin.__all__]


def drawn(data, **options):
    (chosen,) = best_viewers(VIEWERS, data)
    return draw_viewer(chosen, Scene("j1", {"port": data}, **options))


def test_registry_finds_a_viewer_for_every_kind():
    assert {viewer.kind.id for viewer in load_registry().viewers.values()} == set(KINDS)


@pytest.mark.parametrize("make", sets.EVERY_KIND.values(), ids=list(sets.EVERY_KIND))
def test_every_kind_is_drawn(make, tmp_path):
    shown = drawn(make(tmp_path))
    assert shown
    assert all(isinstance(item, Picture | TextTable) for item in shown), shown
    assert all(picture.alt for picture in shown if isinstance(picture, Picture))


@pytest.mark.parametrize("make", sets.EVERY_KIND.values(), ids=list(sets.EVERY_KIND))
def test_empty_sets_give_nothing(make, tmp_path):
    data = make(tmp_path)
    assert drawn(data.select(data.rows(["item_id"]).head(0))) == []


@pytest.mark.parametrize(
    ("make", "name"),
    [(sets.micrographs, "m0.mrc"), (sets.particles, "p.mrcs"), (sets.volumes, "v.mrc")],
)
def test_missing_file_is_named(make, name, tmp_path):
    data = make(tmp_path)
    (tmp_path / name).unlink()
    missing = [item for item in drawn(data) if isinstance(item, Missing)]
    assert missing
    assert name in missing[0].reason


def test_missing_mask_costs_only_the_outline(tmp_path):
    data = sets.volumes(tmp_path)
    (tmp_path / "mask.mrc").unlink()
    assert all(isinstance(item, Picture) for item in drawn(data))


def test_panel_that_fails_does_not_cost_the_others(tmp_path):
    scene = Scene("j1", {"micrographs": sets.micrographs(tmp_path)})
    (shown,) = draw_panel(Text("{no_such_column}"), scene, "t")
    assert isinstance(shown, Missing)
    assert "no_such_column" in shown.reason


def test_text_names_columns_with_units(tmp_path):
    scene = Scene("j1", {"volumes": sets.volumes(tmp_path)})
    assert draw_panel(Text("to {resolution_angst}"), scene, "t") == ["to 6 Å"]


def test_unknown_panels_and_missing_columns_are_left_out(tmp_path):
    scene = Scene("j1", {"micrographs": sets.micrographs(tmp_path)})
    assert draw_panel(Panel(), scene, "t") == []
    assert draw_panel(Image("spectrum_path"), scene, "t") == []


def test_viewer_that_asks_for_more_is_better(tmp_path):
    plain, fitted = sets.micrographs(tmp_path), sets.fitted(tmp_path)
    assert best_viewers(VIEWERS, plain) == [builtin.MICROGRAPHS_VIEWER]
    assert best_viewers(VIEWERS, fitted) == [builtin.CTF_VIEWER]
    mine = viewer("mine.all", fitted.kind, [], needs=("ctf", "ctf_fit", "image"))
    assert best_viewers([*VIEWERS, mine], fitted) == [mine]


def test_what_an_input_shows_is_not_drawn_again(tmp_path):
    data = sets.fitted(tmp_path)
    part = data.select([0, 1])
    scene = Scene("j2", {"micrographs": part}, inputs={"micrographs": [data]})
    assert not is_news(Histogram("fit_res_angst"), scene)
    changed = part.with_columns(pl.DataFrame({"item_id": [0, 1], "fit_res_angst": [9.0, 9.0]}))
    scene = Scene("j2", {"micrographs": changed}, inputs={"micrographs": [data]})
    assert is_news(Histogram("fit_res_angst"), scene)


def test_selected_classes_are_framed_among_all(tmp_path):
    data = sets.classes(tmp_path)
    scene = Scene("j2", {"classes": data.select([1, 3])}, inputs={"classes": [data]})
    (picture,) = draw_panel(Gallery(sort_by="n_particles"), scene, "g")
    assert "All 5 class averages, sorted by size" in picture.caption
    assert "The 2 framed ones were selected" in picture.caption


def test_rejected_micrographs_stand_behind_with_their_reason(tmp_path):
    data = sets.fitted(tmp_path)
    parts = {"micrographs": data.select([0, 1]), "rejected": data.select([2])}
    scene = Scene("j2", parts, params={"max_fit_res_angst": 5.5})
    gallery = Gallery("spectrum_path", sort_by="fit_res_angst")
    (picture,) = draw_panel(gallery, scene, "g")
    assert "All 2 micrographs" in picture.caption
    assert "put aside" in picture.caption


def test_picks_take_the_pixel_size_of_the_micrographs(tmp_path):
    data = sets.coordinates(tmp_path)
    bare = data.optics.select("optics_group")
    blind = replace(data, optics=bare)
    alone = draw_panel(builtin.COORDINATES_VIEWER.panels[0], Scene("j", {"c": blind}), "p")
    assert "the pixel size is not known" in alone[0].reason
    given = {"micrographs": [sets.micrographs(tmp_path)]}
    shown = draw_panel(builtin.COORDINATES_VIEWER.panels[0], Scene("j", {"c": blind}, given), "p")
    assert [type(item) for item in shown] == [Picture, Picture]


def test_limits_are_found_by_the_name_of_their_column():
    row = {"fit_res_angst": 12.34, "drift_angst": 3.0, "score": None, "label": "x"}
    params = {
        "max_fit_res_angst": 10.0,
        "max_drift_angst": 25.0,
        "min_score": 1.0,
        "min_label": "a",
        "max_other": 3,
    }
    assert broken_limits(row, params) == ["fit resolution 12.3 Å > 10"]
    assert broken_limits(row, params, is_brief=True) == ["12.3 Å > 10"]


def test_middle_row_by_quality_stands_for_all(tmp_path):
    row = chosen_row(sets.fitted(tmp_path))
    assert row["fit_res_angst"] == 5.0
    assert row_name(row) == "m1"
    assert row["pixel_size_angst"] == 2.0


def test_rows_without_a_picture_take_no_place_in_a_gallery(tmp_path):
    scene = Scene("j1", {"movies": sets.movies(tmp_path)})
    (picture,) = draw_panel(Gallery("thumbnail_path"), scene, "g")
    assert picture.caption == "3 of 5 movies."


def test_maps_of_classes_are_named_and_those_not_drawn_are_counted(tmp_path):
    one = sets.volumes(tmp_path)
    rows = pl.DataFrame(
        {
            "image_path": ["v.mrc"] * 6,
            "class_index": [4, 0, 1, 2, 3, 5],
            "n_particles": [9, 8, 7, 6, 5, 4],
            "optics_group": [1] * 6,
        }
    )
    data = make_dataset(VOLUMES, rows, root=tmp_path, optics=one.optics)
    captions = [item.caption for item in drawn(data) if isinstance(item, Picture)]
    assert sum(text.startswith("Class 4, 9 particles. ") for text in captions) == 2
    assert sum(text.endswith("2 more maps are not shown.") for text in captions) == 2
    assert not any("Class" in item.caption for item in drawn(one) if isinstance(item, Picture))
