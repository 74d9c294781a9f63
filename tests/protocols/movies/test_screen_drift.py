import polars as pl
import pytest

from verglas.model import MICROGRAPHS
from verglas.protocols.movies.screen_drift import DriftParams, Inputs, run
from verglas.sdk.testing import LocalContext, check_protocol, check_resume

# largest step and path of each, worked out by hand: 3, 4, 5 triangles
PATHS = {
    "still": ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0]),  # 0, 0
    "jump": ([0.0, 9.0, 9.0], [0.0, 12.0, 12.0]),  # 15, 15
    "creep": ([0.0, 6.0, 12.0, 18.0, 24.0, 30.0], [0.0, 8.0, 16.0, 24.0, 32.0, 40.0]),  # 10, 50
    "both": ([0.0, 18.0, 36.0], [0.0, 24.0, 48.0]),  # 30, 60
    "edge": ([0.0, -6.0, -12.0, -18.0, -24.0, -27.0], [0.0, 8.0, 16.0, 24.0, 32.0, 36.0]),  # 10, 45
    "one frame": ([0.0], [0.0]),
    "unknown": (None, None),
    "gap": ([0.0, None, 3.0], [0.0, 1.0, 2.0]),
}
OPTICS = pl.DataFrame(
    {
        "optics_group": [1],
        "pixel_size_angst": [2.0],
        "voltage_kv": [300.0],
        "spherical_aberration_mm": [2.7],
        "amplitude_contrast": [0.1],
    }
)


def _data(ctx, names=tuple(PATHS)):
    shifts = {
        f"frame_shift_{axis}_angst": pl.Series(
            [PATHS[name][i] for name in names], dtype=pl.List(pl.Float64)
        )
        for i, axis in enumerate("xy")
    }
    rows = pl.DataFrame(
        {
            "item_id": pl.Series(range(10, 10 + len(names)), dtype=pl.Int64),
            "label": list(names),
            "optics_group": pl.Series([1] * len(names), dtype=pl.Int64),
            "image_path": [f"{name}.mrc" for name in names],
            "image_slice": pl.Series([0] * len(names), dtype=pl.Int64),
            "travel_angst": pl.Series([1.0] * len(names)),
            **shifts,
        }
    )
    return ctx.dataset(MICROGRAPHS, rows, optics=OPTICS)


def _screen(root, names=tuple(PATHS), **params):
    ctx = LocalContext(root)
    outputs = run(ctx, DriftParams(**params), Inputs(micrographs=_data(ctx, names)))
    return outputs, ctx


def test_protocol_declares_what_it_should():
    assert check_protocol(run).id == "movies.screen_drift"


@pytest.mark.parametrize(
    ("reject_by", "expected"),
    [
        ("either", {"jump", "creep", "both"}),
        ("both", {"both"}),
        ("frame", {"jump", "both"}),
        ("travel", {"creep", "both"}),
    ],
)
def test_limits_are_combined_as_asked(tmp_path, reject_by, expected):
    outputs, _ = _screen(tmp_path, reject_by=reject_by)
    rejected = set(outputs.rejected.rows()["label"])
    assert rejected == expected | {"unknown", "gap"}
    assert set(outputs.accepted.rows()["label"]) == set(PATHS) - rejected


def test_a_value_at_the_limit_is_accepted(tmp_path):
    outputs, _ = _screen(tmp_path, ("edge",))
    assert outputs.accepted.n_items == 1
    for name, limit in (("max_frame_shift_angst", 9.999), ("max_travel_angst", 44.999)):
        outputs, _ = _screen(tmp_path, ("edge",), **{name: limit})
        assert outputs.accepted.n_items == 0


def test_rows_keep_their_ids_and_columns(tmp_path):
    outputs, _ = _screen(tmp_path)
    assert outputs.rejected.rows()["item_id"].to_list() == [11, 12, 13, 16, 17]
    assert "frame_shifts" in outputs.accepted.traits
    assert outputs.accepted.optics.equals(OPTICS)


def test_unknown_motion_is_said_and_rejected(tmp_path):
    _, ctx = _screen(tmp_path)
    assert any("motion of 2 micrographs is not known" in text for text in ctx.warnings)


def test_rejecting_everything_is_a_warning(tmp_path):
    _, ctx = _screen(tmp_path, ("both", "jump"))
    assert any("every micrograph is rejected" in text for text in ctx.warnings)


def test_resumed_run_equals_one_in_one_go(tmp_path):
    def make_inputs(root):
        return Inputs(micrographs=_data(LocalContext(root)))

    check_resume(run, make_inputs, DriftParams(), tmp_path)
