import numpy as np
import polars as pl
import pytest

from tests.protocols.fields_project import (
    DIAMETER,
    PIXEL,
    make_fields,
    micrographs_of,
    true_ctf,
)
from verglas.core.errors import ParamsError, PortError, UserError
from verglas.io.mrc import open_mrc
from verglas.model import COORDINATES, make_dataset
from verglas.protocols.particles.extract import ExtractParams, Inputs, run
from verglas.sdk.testing import LocalContext, check_protocol, check_resume

N = 6
PARAMS = ExtractParams(box_px=96, diameter_angst=DIAMETER)


def _inputs(root, n=N, *, extra=(), with_ctf=True):
    """True positions of simulated micrographs; `extra` are more of the first, in pixels."""
    truth = make_fields(root, n)
    truth[0] = np.vstack([truth[0], *extra]) if extra else truth[0]
    micrographs = micrographs_of(root, n, **(true_ctf(n) if with_ctf else {}))
    points = np.vstack(truth) * PIXEL
    index = np.repeat(np.arange(n), [len(points) for points in truth])
    rows = pl.DataFrame(
        {
            "coord_x_angst": points[:, 0],
            "coord_y_angst": points[:, 1],
            "micrograph_id": index,
            "micrograph_path": [f"data/field_{i:02d}.mrc" for i in index],
            "score": np.linspace(1.0, 0.5, len(points)),
        }
    )
    coordinates = make_dataset(COORDINATES, rows, root=root)
    return Inputs(coordinates=coordinates, micrographs=micrographs)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    root = tmp_path_factory.mktemp("extract")
    inputs = _inputs(root, extra=([[40.0, 200.0]], [[300.0, 470.0]]))
    ctx = LocalContext(root)
    return run(ctx, PARAMS, inputs).particles, ctx, inputs


def _images(data):
    return np.stack(
        [
            open_mrc(data.path(path)).read([number])[0]
            for path, number in data.rows(["image_path", "image_slice"]).iter_rows()
        ]
    )


def test_protocol_declares_what_it_should():
    assert check_protocol(run).id == "particles.extract"


def _away_from_borders(inputs, margin_px):
    """Ids of the positions that are so far from the borders."""
    rows = inputs.coordinates.rows().filter(
        (pl.col("coord_x_angst") / PIXEL).is_between(margin_px - 0.5, 520 - 0.5 - margin_px)
        & (pl.col("coord_y_angst") / PIXEL).is_between(margin_px - 0.5, 480 - 0.5 - margin_px)
    )
    return rows["item_id"].to_list()


def test_particles_over_the_border_are_dropped_and_counted(done):
    data, ctx, inputs = done
    n_given = inputs.coordinates.n_items
    kept = _away_from_borders(inputs, 0.5 * DIAMETER / PIXEL)
    assert data.rows()["item_id"].to_list() == kept
    assert len(kept) == n_given - 1
    assert ctx.warnings[0] == f"1 of {n_given} particles leave their micrograph: dropped"
    filled = data.rows().filter(pl.col("box_fill_fraction") > 0)
    assert 1 <= filled.height == ctx.metrics["n_at_border_filled"]
    assert filled["box_fill_fraction"].max() < 0.4
    assert ctx.metrics["n_at_border_dropped"] == 1


def test_whole_boxes_can_be_asked_for(tmp_path):
    inputs = _inputs(tmp_path, 1, extra=([[40.0, 200.0]],))
    ctx = LocalContext(tmp_path)
    data = run(ctx, PARAMS.model_copy(update={"must_be_inside": "box"}), inputs).particles
    ids = data.rows()["item_id"].to_list()
    assert ids
    assert set(ids) <= set(_away_from_borders(inputs, 47))
    assert data.rows()["box_fill_fraction"].to_list() == [0.0] * len(ids)
    n_given = inputs.coordinates.n_items
    assert f"{n_given - len(ids)} of {n_given} boxes leave their micrograph" in ctx.warnings[0]


def test_particles_inherit_position_score_and_ctf(done):
    data, _, inputs = done
    rows = data.rows()
    assert {"ctf", "optics", "coord2d", "image", "pixels", "score"} <= data.traits
    joined = rows.join(inputs.coordinates.rows(), on="item_id", maintain_order="left")
    for name in ("coord_x_angst", "coord_y_angst", "score", "micrograph_id"):
        assert joined[name].equals(joined[f"{name}_right"].alias(name))
    third = rows.filter(micrograph_id=2)
    assert third["defocus_u_angst"].unique().to_list() == [17150.0]
    assert data.optics["box_px"].to_list() == [96]
    assert data.optics["pixel_size_angst"].to_list() == [PIXEL]
    assert data.optics["micrograph_pixel_size_angst"].to_list() == [PIXEL]


def test_shift_is_the_rest_of_the_whole_pixel(done):
    rows = done[0].rows()
    for axis in "xy":
        position = rows[f"coord_{axis}_angst"].to_numpy() / PIXEL
        np.testing.assert_allclose(
            rows[f"shift_{axis}_angst"].to_numpy(),
            (np.round(position) - position) * PIXEL,
            atol=1e-9,
        )


def test_protein_is_bright_and_background_normal(done):
    images = _images(done[0])
    axis = np.arange(96) - 48
    radius = np.hypot(axis[:, None], axis)
    outside = images[:, radius > 0.5 * 1.25 * DIAMETER / PIXEL]
    assert abs(outside.mean()) < 0.01
    assert outside.std(axis=1) == pytest.approx(1.0, abs=0.01)
    mean = images.mean(axis=0)
    assert mean[radius < 15].mean() > mean[(radius > 35) & (radius < 45)].mean() + 0.2


def test_output_can_be_smaller(tmp_path):
    params = PARAMS.model_copy(update={"output_px": 48, "precision": "float32"})
    data = run(LocalContext(tmp_path), params, _inputs(tmp_path, 1)).particles
    assert _images(data).shape[1:] == (48, 48)
    assert data.optics["pixel_size_angst"].to_list() == [2 * PIXEL]
    assert data.optics["box_px"].to_list() == [48]
    assert open_mrc(data.path(data.rows()["image_path"][0])).pixel_size_angst == pytest.approx(4.0)


def test_box_follows_from_its_size_in_angstrom(tmp_path):
    params = ExtractParams(box_angst=190.0, diameter_angst=DIAMETER)
    data = run(LocalContext(tmp_path), params, _inputs(tmp_path, 1)).particles
    assert data.optics["box_px"].to_list() == [96]


def test_phases_are_flipped_on_demand(tmp_path):
    params = PARAMS.model_copy(update={"flip_phases": True})
    plain = _images(run(LocalContext(tmp_path), PARAMS, _inputs(tmp_path, 1)).particles)
    flipped = run(LocalContext(tmp_path, job="0002-local"), params, _inputs(tmp_path, 1)).particles
    assert np.abs(_images(flipped) - plain).max() > 0.5


def test_flipping_without_ctf_is_refused(tmp_path):
    params = PARAMS.model_copy(update={"flip_phases": True})
    with pytest.raises(PortError, match="with flip_phases"):
        run(LocalContext(tmp_path), params, _inputs(tmp_path, 1, with_ctf=False))


def test_boxes_larger_than_the_micrographs_are_an_error(tmp_path):
    params = PARAMS.model_copy(update={"box_px": 600})
    with pytest.raises(UserError, match="smaller than the micrographs"):
        run(LocalContext(tmp_path), params, _inputs(tmp_path, 1))


def test_box_smaller_than_the_particle_is_an_error(tmp_path):
    with pytest.raises(ParamsError, match="smaller than the particle"):
        run(
            LocalContext(tmp_path),
            ExtractParams(box_px=48, diameter_angst=DIAMETER),
            _inputs(tmp_path, 1),
        )


def test_missing_diameter_is_asked_for(tmp_path):
    with pytest.raises(ParamsError, match="needs diameter_angst"):
        run(LocalContext(tmp_path), ExtractParams(box_px=96), _inputs(tmp_path, 1))


@pytest.mark.parametrize(
    "wrong", [{"box_px": 95}, {"box_px": 96, "box_angst": 190.0}, {"output_px": 33}]
)
def test_contradicting_sizes_are_refused(wrong):
    with pytest.raises(ParamsError):
        ExtractParams(**wrong)


@pytest.mark.parametrize("local", [True, False])
def test_slope_of_the_defocus_reaches_each_particle(tmp_path, local):
    inputs = _inputs(tmp_path, 1)
    slope = inputs.micrographs.rows(["item_id"]).with_columns(
        defocus_slope_x=pl.lit(0.1), defocus_slope_y=pl.lit(-0.2)
    )
    inputs = Inputs(
        coordinates=inputs.coordinates, micrographs=inputs.micrographs.with_columns(slope)
    )
    params = PARAMS.model_copy(update={"local_defocus": local})
    rows = run(LocalContext(tmp_path), params, inputs).particles.rows()
    x = rows["coord_x_angst"].to_numpy() - 519.0
    y = rows["coord_y_angst"].to_numpy() - 479.0
    expected = 15150.0 + (0.1 * x - 0.2 * y if local else np.zeros(len(x)))
    np.testing.assert_allclose(rows["defocus_u_angst"].to_numpy(), expected)
    assert "defocus_slope_x" not in rows.columns


def test_shift_of_the_positions_is_kept(tmp_path):
    inputs = _inputs(tmp_path, 1)
    shifted = inputs.coordinates.rows(["item_id"]).with_columns(
        shift_x_angst=pl.lit(5.0), shift_y_angst=pl.lit(-3.0)
    )
    plain = run(LocalContext(tmp_path), PARAMS, inputs).particles.rows()
    inputs = Inputs(
        coordinates=inputs.coordinates.with_columns(shifted), micrographs=inputs.micrographs
    )
    rows = run(LocalContext(tmp_path, job="0002-local"), PARAMS, inputs).particles.rows()
    np.testing.assert_allclose(rows["shift_x_angst"] - plain["shift_x_angst"], 5.0)
    np.testing.assert_allclose(rows["shift_y_angst"] - plain["shift_y_angst"], -3.0)


def test_unreadable_micrograph_is_skipped(tmp_path, caplog):
    inputs = _inputs(tmp_path, 2)
    (tmp_path / "data/field_01.mrc").write_bytes(b"cut off")
    data = run(LocalContext(tmp_path), PARAMS, inputs).particles
    assert data.rows()["micrograph_id"].unique().to_list() == [0]
    assert "field_01.mrc" in caplog.text


def test_resumed_run_equals_a_whole_one(tmp_path):
    check_resume(run, _inputs, PARAMS, tmp_path)
