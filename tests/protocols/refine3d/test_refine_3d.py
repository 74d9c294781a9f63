import numpy as np
import pytest
import torch

from tests.elsewhere import elsewhere
from tests.protocols.simulated import (
    BOX,
    OPTICS,
    noise_like,
    particles_of,
    simulated,
    truth_of,
    volumes_of,
)
from tests.tolerance import assert_close_to_peak
from verglas.algorithms.pose_error import compare_poses
from verglas.core.errors import ParamsError, PortError, UserError
from verglas.core.memory import Memory
from verglas.io.mrc import read_mrc
from verglas.protocols.refine3d import refine_3d
from verglas.protocols.refine3d.refine_3d import Inputs, Refine3dParams, run
from verglas.sdk.testing import LocalContext, check_protocol

PARAMS = Refine3dParams(
    diameter_angst=130, symmetry="O", initial_low_pass_angst=25, max_iterations=3
)


def _inputs(root, made, **columns):
    volume = truth_of("apoferritin", simulated("apoferritin", 120, 1.0))
    return Inputs(
        particles=particles_of(root, made), reference=volumes_of(root, volume * 37.0, **columns)
    )


def test_refine_3d_keeps_the_contract():
    check_protocol(run)


def test_refinement_finds_poses_and_half_maps(tmp_path):
    made = simulated("apoferritin", 120, 1.0)
    ctx = LocalContext(tmp_path)
    out = run(ctx, PARAMS, _inputs(tmp_path, made))
    found = out.particles.rows().sort("item_id")
    angles = ("angle_rot_deg", "angle_tilt_deg", "angle_psi_deg")
    true = made.table.sort("item_id").select(angles).to_numpy()
    errors = compare_poses(found.select(angles).to_numpy(), true, symmetry="O").errors_deg
    # 120 images of 36 px of 5 A at SNR 1, Nyquist 10 A: half a fine grid step of 3.75 deg
    assert np.median(errors) < 3.0
    row = out.volumes.rows().row(0, named=True)
    halves = [read_mrc(tmp_path / row[f"half_map_{h}_path"])[0] for h in (1, 2)]
    assert halves[0].shape == (BOX,) * 3
    assert np.corrcoef(halves[0].ravel(), halves[1].ravel())[0, 1] > 0.5
    assert row["resolution_angst"] <= 14
    assert set(found["half_set"].to_list()) == {1, 2}
    # 6 of the 120 are searched again without thrift in each search
    assert ctx.metrics["search_recall"] > 0.8


def test_too_little_memory_is_told_before_anything_is_done(tmp_path, monkeypatch):
    inputs = _inputs(tmp_path, simulated("apoferritin", 40, 1.0))
    monkeypatch.setattr(refine_3d, "memory_of_machine", lambda: Memory(0.5, 0.4))
    ctx = LocalContext(tmp_path)
    with pytest.raises(UserError, match=r"refinement of 36 px to 11 Å takes about 1\.\d GB"):
        run(ctx, PARAMS, inputs)
    monkeypatch.setattr(refine_3d, "memory_of_machine", lambda: Memory(8.0, 0.4))
    tight = LocalContext(tmp_path, job="0002-tight")
    run(tight, PARAMS.model_copy(update={"max_iterations": 1}), inputs)
    assert any("0.4 GB are free" in text for text in tight.warnings)


def test_chunks_on_another_device_give_the_same_map(tmp_path):
    """40 particles at SNR 1, one iteration and the final one; the device is made up."""
    made = simulated("apoferritin", 40, 1.0)
    params = PARAMS.model_copy(update={"max_iterations": 1})
    here = run(LocalContext(tmp_path / "here"), params, _inputs(tmp_path / "here", made))
    with elsewhere() as device:
        ctx = LocalContext(tmp_path / "there", device=str(device))
        there = run(ctx, params, _inputs(tmp_path / "there", made))
    maps = [
        read_mrc(tmp_path / name / out.volumes.rows()["half_map_1_path"][0])[0]
        for name, out in (("here", here), ("there", there))
    ]
    assert_close_to_peak(maps[1], maps[0], 1e-3)


def test_half_sets_that_particles_have_are_kept(tmp_path):
    made = simulated("apoferritin", 120, 1.0)
    inputs = _inputs(tmp_path, made)
    rows = inputs.particles.rows(("item_id",))
    given = rows.with_columns(half_set=(rows["item_id"] < 50).cast(int) + 1)
    inputs = Inputs(particles=inputs.particles.with_columns(given), reference=inputs.reference)
    out = run(LocalContext(tmp_path), PARAMS.model_copy(update={"max_iterations": 1}), inputs)
    found = out.particles.rows(("item_id", "half_set")).sort("item_id")
    assert found["half_set"].to_list() == given.sort("item_id")["half_set"].to_list()


def test_a_filter_for_every_place_refines_as_well(tmp_path):
    made = simulated("apoferritin", 120, 1.0)
    params = PARAMS.model_copy(update={"regularisation": "non_uniform", "max_iterations": 2})
    out = run(LocalContext(tmp_path), params, _inputs(tmp_path, made))
    # Nyquist is at 10 A
    assert out.volumes.rows()["resolution_angst"][0] <= 16


def test_pure_noise_reports_no_signal_beyond_the_reference(tmp_path):
    made = noise_like(simulated("apoferritin", 120, 1.0))
    params = PARAMS.model_copy(update={"max_iterations": 4})
    out = run(LocalContext(tmp_path), params, _inputs(tmp_path, made))
    assert out.volumes.rows()["resolution_angst"][0] >= 25


def test_too_few_particles_are_refused_with_their_number(tmp_path):
    made = simulated("apoferritin", 120, 1.0)
    inputs = _inputs(tmp_path, made)
    few = inputs.particles.select(inputs.particles.rows(("item_id",)).head(10))
    with pytest.raises(PortError, match="at least 40 particles"):
        run(LocalContext(tmp_path), PARAMS, Inputs(particles=few, reference=inputs.reference))


def test_a_diameter_larger_than_the_box_is_refused(tmp_path):
    inputs = _inputs(tmp_path, simulated("apoferritin", 120, 1.0))
    with pytest.raises(ParamsError, match="fit the box"):
        run(LocalContext(tmp_path), Refine3dParams(diameter_angst=500), inputs)


def test_an_unknown_point_group_is_refused(tmp_path):
    inputs = _inputs(tmp_path, simulated("apoferritin", 120, 1.0))
    with pytest.raises(ParamsError):
        run(LocalContext(tmp_path), Refine3dParams(diameter_angst=130, symmetry="Q7"), inputs)


def test_stopped_refinement_goes_on_to_the_same_maps(tmp_path):
    made = simulated("apoferritin", 120, 1.0)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    params = PARAMS.model_copy(update={"max_iterations": 2})
    from verglas.sdk.context import JobCancelled

    expected = run(LocalContext(whole), params, _inputs(whole, made))
    with pytest.raises(JobCancelled):
        run(LocalContext(parts, cancel_after=4), params, _inputs(parts, made))
    resumed = run(LocalContext(parts), params, _inputs(parts, made))
    maps = [
        torch.from_numpy(read_mrc(root / out.volumes.rows()["image_path"][0])[0])
        for root, out in ((whole, expected), (parts, resumed))
    ]
    torch.testing.assert_close(maps[0], maps[1])
    assert OPTICS.pixel_size_angst == 5.0
