"""The engine on another device: nothing is left on the processor, and the maps are the same."""

import dataclasses

import pytest
import torch

from tests.algorithms.em.model_images import PIXEL_ANGST, draw_views, in_plane, make_setting
from tests.algorithms.em.refining import blob_particles, image_power, iterate, views_of
from tests.elsewhere import elsewhere
from tests.tolerance import assert_close_to_peak, assert_exact
from verglas.algorithms.devices import to_device
from verglas.algorithms.em.expectation import Level, References, Search, expect
from verglas.algorithms.em.known_poses import expect_known
from verglas.algorithms.em.refine import half_maps, update
from verglas.algorithms.em.refine_start import initial_state
from verglas.algorithms.em.refine_state import RefineConfig
from verglas.algorithms.em.search import shift_grid
from verglas.algorithms.em.step import HalfExpectation, KnownPoses
from verglas.kernels.fourier import rfft3
from verglas.kernels.fsc import fourier_shell_correlation
from verglas.kernels.slices import symmetrise_half_volume, volume_to_half_volume
from verglas.kernels.so3 import orientation_grid, random_rotations
from verglas.kernels.symmetry import symmetry_operators

BOX = 16


def _map_fsc(a, b):
    n_shells = len(a) // 2
    return fourier_shell_correlation(rfft3(a[None]), rfft3(b[None]), n_shells=n_shells)[0]


def test_a_tensor_elsewhere_does_not_meet_one_here():
    with elsewhere() as device:
        there = torch.zeros(3, device=device)
        with pytest.raises(RuntimeError, match="two devices"):
            there + torch.ones(3)
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        assert_exact((there + torch.ones(3).to(device)).cpu(), torch.ones(3))


def test_dataclasses_are_moved_with_all_that_they_hold():
    state = initial_state(
        RefineConfig(BOX, PIXEL_ANGST, 0.7 * BOX * PIXEL_ANGST), torch.rand(BOX, BOX, BOX),
        torch.ones(1, BOX // 2),
    )  # fmt: skip
    with elsewhere() as device:
        there = to_device(state, device)
        assert there.half_maps.device == there.noise_power.device == device
        assert there.iteration == state.iteration
        assert_exact(to_device(there, "cpu").half_maps, state.half_maps)


@pytest.mark.parametrize(("n_polished", "jumped"), [(0, 1.0), (1, 1.0), (3, 0.0)])
def test_an_iteration_elsewhere_makes_the_same_maps(n_polished, jumped):
    """6 octahedral particles, SNR 0.5: on a grid, from a grid, and near known poses."""
    particles = blob_particles("O", 6, box=BOX, snr=0.5)
    config = RefineConfig(BOX, PIXEL_ANGST, 0.78 * BOX * PIXEL_ANGST, "O")
    state = initial_state(config, particles.truth, image_power(particles, config))
    state = dataclasses.replace(state, n_polished=n_polished, jumped=jumped)
    known = tuple(
        KnownPoses(particles.rotations[h::2], particles.shifts_angst[h::2]) for h in (0, 1)
    )
    here, found = iterate(particles, config, state, known)
    with elsewhere() as device:
        there, found_there = iterate(particles, config, state, known, device=device)
    for half in (0, 1):
        fsc = _map_fsc(here.half_maps[half], there.half_maps[half])
        assert float(fsc[1 : here.shell + 1].min()) > 0.9999
        moved = found[half].shifts_angst - found_there[half].shifts_angst
        assert float(moved.abs().max()) < 1e-3
    assert_close_to_peak(there.noise_power, here.noise_power)


def whole_iteration(symmetry, device):
    """Expectation near known poses and maximisation, all on one device."""
    particles = blob_particles(symmetry, 6, box=BOX, snr=0.5)
    config = RefineConfig(BOX, PIXEL_ANGST, 0.78 * BOX * PIXEL_ANGST, symmetry)
    state = initial_state(config, particles.truth, image_power(particles, config))
    state = to_device(dataclasses.replace(state, n_polished=3, jumped=0.0), device)
    sums = {}
    for half in (0, 1):
        step = HalfExpectation.make(config, state, half)
        views = views_of(particles, config, state.noise_power.cpu(), state.scale.cpu(), half)
        known = KnownPoses(particles.rotations[half::2], particles.shifts_angst[half::2])
        step.add(*(to_device(v, device) for v in (views.prefix(step.search.radius), known)))
        sums[half] = step.sums
    new = update(config, state, sums, step_deg=3.0, effective_cells=1.0)
    return to_device((new, half_maps(config, sums)), "cpu")


def test_maximisation_elsewhere_makes_the_same_maps():
    here, halves = whole_iteration("D3", "cpu")
    with elsewhere() as device:
        there, halves_there = whole_iteration("D3", device)
    assert_close_to_peak(there.half_maps, here.half_maps, 1e-4)
    assert_close_to_peak(halves_there, halves, 1e-4)
    assert_close_to_peak(there.noise_power, here.noise_power)
    assert there.shell == here.shell


def test_views_at_known_poses_elsewhere_give_the_same_sums():
    """8 views of two references, scored at their poses as a classification does."""
    setting = make_setting(n_references=2, radius=6, box=16)
    truth = random_rotations(8, generator=torch.Generator().manual_seed(1))
    shifts = torch.zeros(8, 2).double()
    views = draw_views(setting, truth, shifts, seed=2)
    references = References(setting.half_volumes, torch.tensor([-0.5, -1.0]), 2, planar=False)

    def expected_on(device):
        there = [to_device(value, device) for value in (views, references, truth, shifts)]
        poses = {"rotations_ref_to_img": there[2], "shifts_angst": there[3]}
        found = expect_known(*there[:2], n_groups=1, noise_radius_angst=20.0, **poses)
        return to_device(found, "cpu")

    poses, sums = expected_on("cpu")
    with elsewhere() as device:
        poses_there, sums_there = expected_on(device)
    for name, expected in vars(sums).items():
        assert_close_to_peak(getattr(sums_there, name), expected, 1e-4)
    assert_exact(poses_there.reference, poses.reference)


@pytest.mark.parametrize("symmetry", ["O", "D3"])
def test_a_point_group_elsewhere_gives_the_same_sum(symmetry):
    half_volume = volume_to_half_volume(torch.rand(1, 12, 12, 12), radius=5)[0]
    operators = symmetry_operators(symmetry)
    expected = symmetrise_half_volume(half_volume, operators)
    with elsewhere() as device:
        found = symmetrise_half_volume(half_volume.to(device), operators).cpu()
    assert_close_to_peak(found, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("symmetry", ["O", "D3", "C1"])
def test_a_gpu_makes_the_same_maps(symmetry):
    here, _ = whole_iteration(symmetry, "cpu")
    there, _ = whole_iteration(symmetry, "cuda:0")
    for half in (0, 1):
        fsc = _map_fsc(here.half_maps[half], there.half_maps[half])
        assert float(fsc[1 : here.shell + 1].min()) > 0.999


@pytest.mark.parametrize("planar", [False, True])
def test_a_ladder_elsewhere_gives_the_same_sums(planar):
    """12 views of two references on two grids; in 2D on one."""
    setting = make_setting(n_references=2, planar=planar, radius=6, box=16)
    rotations = in_plane(18) if planar else orientation_grid(0)
    levels = [Level(60.0, 6, shift_grid(6.0, 4.0)), Level(30.0, 6, shift_grid(4.0, 3.0))]
    search = Search(rotations, tuple(levels[: 1 if planar else 2]), 5.0, max_cells=4)
    generator = torch.Generator().manual_seed(1)
    truth = in_plane(12) if planar else random_rotations(12, generator=generator)
    views = draw_views(setting, truth, torch.zeros(12, 2).double(), seed=2)
    references = References(setting.half_volumes, torch.tensor([-0.5, -1.0]), 2, planar)
    poses, sums = expect(views, references, search, n_groups=1)
    with elsewhere() as device:
        moved = (to_device(value, device) for value in (views, references, search))
        found = expect(*moved, n_groups=1)
        poses_there, sums_there = to_device(found, "cpu")
    for name, expected in vars(sums).items():
        assert_close_to_peak(getattr(sums_there, name), expected, 1e-4)
    assert_exact(poses_there.reference, poses.reference)
    assert_exact(poses_there.rotation_ref_to_img, poses.rotation_ref_to_img)
