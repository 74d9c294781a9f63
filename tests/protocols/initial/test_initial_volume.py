import pytest
import torch

from tests.protocols.simulated import OPTICS, particles_of, simulated, truth_of
from verglas.algorithms.map_align import AlignConfig, align_maps
from verglas.core.errors import ParamsError
from verglas.io.mrc import read_mrc
from verglas.protocols.initial.initial_volume import InitialVolumeParams, Inputs, run
from verglas.sdk.testing import LocalContext, check_protocol


def test_initial_volume_keeps_the_contract():
    check_protocol(run)


def test_search_writes_maps_and_poses(tmp_path):
    made = simulated("apoferritin", 120, 1.0)
    params = InitialVolumeParams(
        diameter_angst=130,
        symmetry="O",
        n_searches=2,
        iterations=3,
        ramp_iterations=2,
        max_resolution_angst=16,
    )
    ctx = LocalContext(tmp_path)
    out = run(ctx, params, Inputs(particles=particles_of(tmp_path, made)))
    row = out.volumes.rows().row(0, named=True)
    volume, pixel = read_mrc(tmp_path / row["image_path"])
    assert volume.shape == (36, 36, 36)
    assert pixel == pytest.approx(5.0)
    assert row["symmetry"] == "O"
    assert out.particles.n_items == 120
    assert -1 <= ctx.metrics["agreement"] <= 1


def test_resolutions_the_wrong_way_round_are_refused(tmp_path):
    made = simulated("apoferritin", 120, 1.0)
    params = InitialVolumeParams(start_resolution_angst=10, max_resolution_angst=20)
    with pytest.raises(ParamsError, match="finer than"):
        run(LocalContext(tmp_path), params, Inputs(particles=particles_of(tmp_path, made)))


@pytest.mark.slow
def test_first_map_of_an_octahedral_particle_agrees_with_the_truth_up_to_hand(tmp_path):
    # 400 images of 36 px of 5 A at SNR 0.5; the octahedral shell is the hard case, because
    # at low resolution it has no hand
    made = simulated("apoferritin", 400, 0.5)
    params = InitialVolumeParams(diameter_angst=130, symmetry="O", max_resolution_angst=11)
    out = run(LocalContext(tmp_path), params, Inputs(particles=particles_of(tmp_path, made)))
    volume = torch.from_numpy(read_mrc(tmp_path / out.volumes.rows()["image_path"][0])[0])
    truth = truth_of("apoferritin", made)
    found = align_maps(
        truth,
        volume,
        reference_pixel_size_angst=OPTICS.pixel_size_angst,
        moving_pixel_size_angst=OPTICS.pixel_size_angst,
        config=AlignConfig(symmetry="O", diameter_angst=130),
    )
    assert found.best.correlation > 0.7
