import numpy as np
import polars as pl
import pytest

from tests.algorithms.thon import micrograph
from tests.protocols.fields_project import micrographs_of
from verglas.core.errors import ParamsError, UserError
from verglas.io.mrc import write_mrc
from verglas.protocols.micrographs.estimate_ctf import CtfParams, Inputs, run
from verglas.sdk.testing import LocalContext, check_protocol, check_resume

N = 6
SMALL = CtfParams(tile_angst=512.0, max_res_angst=5.0)


def _write(root, n=N, **truth):
    """Micrographs 0 ... n-2 have rings, the last is noise; the table says 2.7 mm and 300 kV."""
    defaults = {"cs_mm": 2.7, "snr": 1.5, "shape": (480, 520), "pixel_size_angst": 2.0}
    (root / "data").mkdir(parents=True, exist_ok=True)
    for i in range(n):
        rng = np.random.default_rng(i)
        image = rng.standard_normal((480, 520)).astype(np.float32)
        if i < n - 1:
            image = micrograph(
                rng,
                defocus_angst=12000.0 + 1000.0 * i,
                **(defaults | truth),
            )
        write_mrc(root / "data" / f"field_{i:02d}.mrc", image, 2.0)
    return Inputs(micrographs=micrographs_of(root, n))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    root = tmp_path_factory.mktemp("ctf")
    ctx = LocalContext(root)
    return run(ctx, SMALL, _write(root)), ctx


def test_protocol_declares_what_it_should():
    assert check_protocol(run).id == "micrographs.estimate_ctf"


def test_defocus_is_found_and_noise_rejected(done):
    """Rings of height 1.5 x exp(-B k^2 / 2), 480 x 520 pixels of 2 Å; within 100 Å."""
    outputs, ctx = done
    rows = outputs.micrographs.rows()
    assert rows["item_id"].to_list() == [0, 1, 2, 3, 4]
    mean = rows.select((pl.col("defocus_u_angst") + pl.col("defocus_v_angst")) / 2).to_series()
    assert np.abs(mean.to_numpy() - (12000 + 1000 * np.arange(5))).max() < 100.0
    assert outputs.rejected.rows()["item_id"].to_list() == [5]
    assert outputs.rejected.rows()["fit_res_angst"].to_list() == [30.0]
    assert ctx.metrics["n_accepted"] == 5
    assert ctx.metrics["n_rejected"] == 1
    assert not ctx.warnings


def test_profile_and_picture_are_there(done):
    outputs, _ = done
    row = outputs.micrographs.rows().row(0, named=True)
    n = len(row["profile_per_angst"])
    assert n > 50
    for name in ("profile_power", "profile_background", "profile_ctf2", "profile_score"):
        assert len(row[name]) == n
    assert outputs.micrographs.path(row["spectrum_path"]).read_bytes()[:4] == b"\x89PNG"


def test_sums_without_dose_weights_are_taken_where_there_are_any(tmp_path):
    """The weighted sum of the first is that of noise; its plain sum has rings."""
    micrographs = _write(tmp_path, 2).micrographs
    plain = pl.DataFrame(
        {"item_id": [0, 1], "unweighted_image_path": ["data/field_01.mrc", "data/field_00.mrc"]}
    )
    inputs = Inputs(micrographs=micrographs.with_columns(plain))
    outputs = run(LocalContext(tmp_path), SMALL, inputs)
    assert outputs.micrographs.rows()["item_id"].to_list() == [1]


def test_limits_split_the_micrographs(tmp_path):
    outputs = run(
        LocalContext(tmp_path),
        SMALL.model_copy(update={"max_fit_res_angst": 100.0}),
        _write(tmp_path, 2),
    )
    assert outputs.micrographs.n_items == 2
    assert outputs.rejected.n_items == 0


def test_all_rejected_is_warned_of(tmp_path):
    ctx = LocalContext(tmp_path)
    outputs = run(ctx, SMALL, _write(tmp_path, 1))
    assert outputs.micrographs.n_items == 0
    assert "all 1 micrographs were rejected" in ctx.warnings[0]


@pytest.mark.parametrize("truth", [{"cs_mm": 0.01}, {"kv": 200.0}, {"pixel_size_angst": 2.6}])
def test_wrong_aberration_voltage_or_pixel_size_is_warned_of(tmp_path, truth):
    """Voltage and pixel size enter the aberration's phase by their 3rd and 4th powers."""
    inputs = _write(tmp_path, 5, **truth)
    ctx = LocalContext(tmp_path)
    run(ctx, SMALL, inputs)
    assert any(
        "check spherical aberration, pixel size and voltage" in text for text in ctx.warnings
    )


def test_unreadable_micrograph_is_skipped(tmp_path, caplog):
    inputs = _write(tmp_path, 2)
    (tmp_path / "data/field_01.mrc").write_bytes(b"cut off")
    outputs = run(LocalContext(tmp_path), SMALL, inputs)
    assert outputs.micrographs.n_items + outputs.rejected.n_items == 1
    assert "field_01.mrc" in caplog.text


def test_nothing_readable_is_an_error(tmp_path):
    inputs = _write(tmp_path, 1)
    (tmp_path / "data/field_00.mrc").unlink()
    with pytest.raises(UserError, match="no micrograph could be read"):
        run(LocalContext(tmp_path), SMALL, inputs)


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_defocus_angst": 30000.0, "max_defocus_angst": 20000.0},
        {"min_phase_shift_deg": 90.0, "max_phase_shift_deg": 10.0},
        {"defocus": 3.0},
    ],
)
def test_contradicting_parameters_are_refused(wrong):
    with pytest.raises(ParamsError):
        CtfParams(**wrong)


def test_resumed_run_equals_a_whole_one(tmp_path):
    check_resume(run, _write, SMALL, tmp_path)


@pytest.mark.parametrize("method", ["correlation", "equiphase", "parametric"])
def test_other_methods_fill_the_same_columns(tmp_path, done, method):
    inputs = _write(tmp_path, 2)
    params = SMALL.model_copy(update={"method": method})
    rows = run(LocalContext(tmp_path), params, inputs).micrographs.rows()
    other = done[0].micrographs.rows()
    assert rows["ctf_method"].to_list() == [method]
    assert set(rows.columns) == set(other.columns)
    assert rows["defocus_u_angst"][0] == pytest.approx(other["defocus_u_angst"][0], abs=100.0)
    assert rows["drift_angst"][0] is None
    assert other["drift_angst"][0] is not None


def test_an_earlier_estimate_is_refined(tmp_path):
    """A start 8000 Å away stays away, so that the start was used."""
    inputs = _write(tmp_path, 2)
    start = pl.DataFrame(
        {
            "item_id": [0],
            "defocus_u_angst": [20150.0],
            "defocus_v_angst": [19850.0],
            "defocus_angle_deg": [50.0],
            "phase_shift_deg": [0.0],
        }
    )
    initial = inputs.micrographs.select(start).with_columns(start)
    ctx = LocalContext(tmp_path)
    outputs = run(ctx, SMALL, Inputs(micrographs=inputs.micrographs, initial=initial))
    rows = pl.concat([outputs.micrographs.rows(), outputs.rejected.rows()], how="diagonal")
    assert rows.filter(item_id=0)["defocus_v_angst"][0] > 15000.0


def test_constant_image_is_named_and_skipped(tmp_path, caplog):
    inputs = _write(tmp_path, 2)
    write_mrc(tmp_path / "data/field_01.mrc", np.full((480, 520), 7.0, np.float32), 2.0)
    outputs = run(LocalContext(tmp_path), SMALL, inputs)
    assert outputs.micrographs.n_items + outputs.rejected.n_items == 1
    assert "all pixels have the value 7" in caplog.text
