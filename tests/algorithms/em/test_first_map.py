import pytest
import torch

from tests.algorithms.em.model_images import PIXEL_ANGST, blob_volume, draw_views, make_setting
from tests.elsewhere import elsewhere
from tests.tolerance import assert_close_to_peak
from verglas.algorithms.devices import to_device
from verglas.algorithms.em.agreement import map_agreement
from verglas.algorithms.em.candidate import Candidate, finalists
from verglas.algorithms.em.expectation import expect
from verglas.algorithms.em.first_map import coarse_search, fine_search, judge, with_noise_of_disc
from verglas.algorithms.em.first_map_plan import FirstMapConfig, opening_stages, settling_stages
from verglas.algorithms.em.placing import placing
from verglas.kernels.fourier import fourier_resize3
from verglas.kernels.slices import volume_to_half_volume
from verglas.kernels.so3 import pose_distance_deg, random_rotations
from verglas.kernels.symmetry import symmetrise_volume, symmetry_operators

BOX, RADIUS = 24, 9


def _config(symmetry, **changes):
    values = {
        "start_resolution_angst": 24.0,
        "max_resolution_angst": BOX * PIXEL_ANGST / RADIUS,
        "shift_range_angst": 8.0,
        "coarse_iterations": 8,
        "fine_iterations": 4,
        "views_per_iteration": 60,
    }
    return FirstMapConfig(BOX, PIXEL_ANGST, 60.0, symmetry=symmetry, **values | changes)


def _fine(views, config, candidate, seed):
    stages = opening_stages(config) + settling_stages(config)
    return fine_search(views, config, candidate, stages=stages, seed=seed)


def _simulated(symmetry, n, energy=40.0):
    """Views whose signal is worth some `energy` log units, of a map about its axes."""
    volume = symmetrise_volume(blob_volume(BOX)[None], symmetry_operators(symmetry))
    setting = make_setting(box=BOX, radius=RADIUS, energy=energy)
    half = volume_to_half_volume(volume, radius=RADIUS)
    scale = setting.half_volumes.abs().square().mean().sqrt() / half.abs().square().mean().sqrt()
    half *= scale
    setting = type(setting)(BOX, RADIUS, half, setting.noise_power, setting.scale)
    generator = torch.Generator().manual_seed(2)
    rotations = random_rotations(n, generator=generator)
    shifts = 2 * torch.randn(n, 2, generator=generator, dtype=torch.float64)
    return scale * volume[0], rotations, draw_views(setting, rotations, shifts)


def _to_truth(candidate, truth, config):
    return map_agreement(
        truth,
        fourier_resize3(candidate.maps, shape=(BOX,) * 3)[0],
        pixel_size_angst=PIXEL_ANGST,
        diameter_angst=60.0,
        resolution_angst=12.0,
        symmetry=config.symmetry,
    )


@pytest.mark.slow
def test_likeliest_of_six_starts_is_the_octahedral_particle_up_to_hand():
    # 150 views of 40 log units each; from single starts about half end elsewhere
    config = _config("O")
    truth, _, views = _simulated("O", 150)
    views = with_noise_of_disc(views, config)
    starts = [
        judge(views, config, coarse_search(views, config, seed=seed), fine=False)
        for seed in range(6)
    ]
    ends = []
    for i in finalists(starts, 2):
        *_, end = _fine(views, config, starts[i], seed=i)
        ends.append(judge(views, config, end, fine=True))
    best = max(ends, key=lambda end: end.loglik)
    assert _to_truth(best, truth, config) > 0.8


def test_particles_are_placed_where_they_lie():
    config = _config("O")
    truth, rotations, views = _simulated("O", 20, energy=400.0)
    empty = torch.zeros(2, 1, 3, 3, 2)
    right = Candidate(truth[None], empty + 0j, empty, torch.ones(1), torch.ones(RADIUS + 1), 3.0)
    search, references = placing(config, right)
    poses, _ = expect(views, references, search, n_groups=1)
    found = poses.rotation_ref_to_img
    errors = pose_distance_deg(found, rotations, symmetry_operators("O"))
    # a grid of 7.5 degrees, and noise that blurs by about 5
    assert float(errors.median()) < 10.0


def test_coarse_search_without_symmetry_climbs():
    config = _config("C1", coarse_iterations=6, views_per_iteration=90)
    _, _, views = _simulated("C1", 60, energy=80.0)
    views = with_noise_of_disc(views, config)
    few = _config("C1", coarse_iterations=2, views_per_iteration=90)
    short, long = (
        judge(views, config, coarse_search(views, c, seed=0), fine=False, n_views=40)
        for c in (few, config)
    )
    assert long.loglik > short.loglik + 0.3


@pytest.mark.parametrize("fine", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_search_on_another_device_gives_the_same_map(fine):
    """4 views, one iteration of each stage; the device is made up."""
    _, _, views = _simulated("D2", 4)
    changes = {"coarse_iterations": 2, "fine_iterations": 4, "views_per_iteration": 4}
    config = _config("D2", **changes)

    def search(views):
        start = coarse_search(views, config, seed=1)
        if not fine:
            return [start]
        start, stages = judge(views, config, start, fine=False), opening_stages(config)
        return [start, *fine_search(views, config, start, stages=stages, seed=2)]

    here = search(with_noise_of_disc(views, config))
    with elsewhere() as device:
        found = search(with_noise_of_disc(to_device(views, device), config))
        there = [to_device(candidate, "cpu") for candidate in found]
    for one, other in zip(there, here, strict=True):
        assert_close_to_peak(one.maps, other.maps, 1e-3)
        assert abs(one.loglik - other.loglik) < 1e-3 * abs(other.loglik)


def test_equal_seed_gives_the_equal_map():
    config = _config("O", coarse_iterations=2)
    _, _, views = _simulated("O", 40)
    one, two, other = (coarse_search(views, config, seed=seed).maps for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_classes_share_the_views():
    config = _config("O", coarse_iterations=2, n_classes=2)
    _, _, views = _simulated("O", 60)
    found = coarse_search(views, config, seed=0)
    assert found.maps.shape[0] == 2
    assert float(found.class_weight.sum()) == pytest.approx(1.0, abs=0.05)
    *_, last = _fine(views, config, found, seed=0)
    assert last.maps.shape[0] == 2
    assert bool(last.maps.isfinite().all())


def test_candidate_survives_the_way_through_arrays():
    config = _config("O", coarse_iterations=2)
    _, _, views = _simulated("O", 40)
    found = coarse_search(views, config, seed=0)
    back = Candidate.from_arrays(found.to_arrays())
    for name in ("maps", "class_weight", "noise_factor"):
        assert torch.equal(getattr(back, name), getattr(found, name))
    assert back.shift_prior_angst == found.shift_prior_angst
    *_, last = _fine(views, config, back, seed=0)
    assert last.maps.shape[-1] == config.grid(config.max_radius).box


def _candidate(maps, loglik):
    empty = torch.zeros(2, 1, 3, 3, 2)
    one = torch.ones(1)
    return Candidate(maps[None], empty + 0j, empty, one, one, 3.0, loglik)


def test_finalists_are_the_likeliest_with_at_most_two_alike():
    a, b, c = (blob_volume(16, seed=seed) for seed in (0, 7, 11))
    mirrored = a.flip(0).roll(1, 0)
    starts = [
        _candidate(volume, loglik)
        for volume, loglik in ((c, 1.0), (a, 5.0), (mirrored, 4.0), (a, 3.0), (b, 2.0))
    ]
    assert finalists(starts, 3) == [1, 2, 4]
    assert finalists(starts, 4) == [1, 2, 4, 0]
    assert sorted(finalists(starts, 9)) == [0, 1, 2, 3, 4]


def test_grids_follow_size_and_resolution():
    small = _config("O")
    large = FirstMapConfig(200, 2.0, 300.0, max_resolution_angst=10.0)
    assert small.order_of(24.0) == 2
    assert large.order_of(10.0) == 4
    assert large.order_of(40.0) == 2
    assert settling_stages(large)[0].order == 4
    assert large.radius_of(1.0) == 99
