"""The expectation step on rings against the dense product, and what it adds up."""

from dataclasses import replace

import pytest
import torch

from tests.algorithms.em.model_images import PIXEL_ANGST, draw_views, in_plane, make_setting
from tests.elsewhere import elsewhere
from tests.tolerance import assert_close_to_peak, assert_exact
from verglas.algorithms.devices import to_device
from verglas.algorithms.em.average import CompactSpace, RingSums, plain_averages
from verglas.algorithms.em.search import posterior_of_bank, shift_grid
from verglas.algorithms.em.turning import expect_turned
from verglas.algorithms.em.turning_setup import Turning
from verglas.kernels.fourier import fourier_resize2
from verglas.kernels.masks import soft_circle
from verglas.kernels.rings import images_of_orders, ring_grid
from verglas.kernels.slices import extract_slices, half_plane_to_image, image_to_half_plane
from verglas.kernels.so3 import euler_to_matrix

BOX, RADIUS = 24, 8
EXTENT_ANGST = BOX * PIXEL_ANGST
REACH_ANGST = 40.0


def planar_setting(n_references=2, energy=15.0):
    """References that vanish outside their reach, as averages do."""
    setting = make_setting(
        box=BOX, radius=RADIUS, n_references=n_references, planar=True, energy=energy
    )
    images = averages_of(setting, BOX)
    return replace(setting, half_volumes=image_to_half_plane(images, radius=RADIUS)), images


def averages_of(setting, n):
    # to images: undo the window of interpolation twice, once for each way
    images = half_plane_to_image(setting.half_volumes, box=n)
    return images * soft_circle(n, 28 / PIXEL_ANGST, 10 / PIXEL_ANGST)


def turning_of(images, first_psi_deg=1.3):
    n = 24
    shifts = shift_grid(3.0, 3.0)
    part = 2 * REACH_ANGST / EXTENT_ANGST
    return Turning(
        averages=fourier_resize2(images, shape=(n, n)) * (BOX / n) ** 2,
        log_prior=torch.tensor([0.7, 0.3]).log()[: len(images)],
        grid=ring_grid(RADIUS, sampled_part=min(1.0, part + 0.2), compared_part=part),
        shifts_angst=shifts,
        shift_prior_angst=4.0,
        first_psi_deg=first_psi_deg,
        reach_angst=REACH_ANGST,
        noise_radius_angst=40.0,
    )


def some_views(setting, n, *, seed=0, n_references=2, shift=1.5):
    generator = torch.Generator().manual_seed(seed)
    psi = torch.rand(n, generator=generator, dtype=torch.float64) * 360
    zero = torch.zeros_like(psi)
    rotations = euler_to_matrix(torch.stack([zero, zero, psi], 1))
    shifts = torch.randn(n, 2, generator=generator, dtype=torch.float64) * shift
    reference = torch.randint(n_references, (n,), generator=generator)
    views = draw_views(setting, rotations, shifts, seed=seed, reference=reference)
    return views, psi, shifts, reference


def test_evidence_is_that_of_the_dense_product():
    # 40 views of 24 px, energy 15 nats, astigmatism up to 3000 A
    setting, images = planar_setting()
    views, *_ = some_views(setting, 40)
    turning, centre = turning_of(images), torch.zeros(40, 2, dtype=torch.float64)
    poses, _ = expect_turned(views, turning, n_groups=1, shifts_angst=centre)
    zero = torch.zeros_like(turning.psi_deg)
    rotations = euler_to_matrix(torch.stack([zero, zero, turning.psi_deg], 1))
    points = views.disc.frequencies_px
    bank = torch.cat([extract_slices(h, rotations, points) for h in setting.half_volumes])
    prior = turning.log_prior.repeat_interleave(len(rotations))
    moved = turning.shifts_angst.square().sum(1) / (2 * turning.shift_prior_angst**2)
    dense, _ = posterior_of_bank(
        views,
        bank,
        shifts_angst=turning.shifts_angst,
        log_prior_row=prior,
        log_prior_shift=-moved.float()[None],
    )
    difference = poses.loglik - dense.evidence_loglik
    assert difference.abs().mean() < 0.05 * dense.evidence_loglik.abs().mean()
    same = poses.reference == dense.best_row // len(rotations)
    assert same.double().mean() > 0.9


def test_a_temperature_is_noise_of_that_many_times_the_variance():
    # shifts and classes are as likely as before only where their prior is flat
    setting, images = planar_setting()
    views, *_ = some_views(setting, 20)
    centre = torch.zeros(20, 2, dtype=torch.float64)
    flat = replace(turning_of(images), log_prior=torch.zeros(2), shift_prior_angst=1e4)
    softened, _ = expect_turned(
        views, replace(flat, temperature=1.5), n_groups=1, shifts_angst=centre
    )
    noisier = replace(views, noise_power=1.5 * views.noise_power)
    expected, _ = expect_turned(noisier, flat, n_groups=1, shifts_angst=centre)
    torch.testing.assert_close(softened.loglik, expected.loglik, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(
        softened.reference_weight, expected.reference_weight, rtol=1e-3, atol=1e-4
    )


def test_views_find_their_class_turn_and_shift():
    # energy 40 nats, two classes, shifts of 1.5 A
    setting, images = planar_setting(energy=40.0)
    views, psi, shifts, reference = some_views(setting, 60)
    turning = turning_of(images)
    poses, _ = expect_turned(
        views, turning, n_groups=1, shifts_angst=torch.zeros(60, 2, dtype=torch.float64)
    )
    assert (poses.reference == reference).double().mean() > 0.95
    off = (poses.psi_deg - psi + 180).remainder(360) - 180
    assert off.abs().median() < 5
    assert (poses.shift_angst - shifts).norm(dim=1).median() < 2.5


def test_averages_of_well_aligned_views_are_the_reference():
    setting, images = planar_setting(n_references=1, energy=40.0)
    views, _, shifts, _ = some_views(setting, 150, n_references=1)
    turning = replace(turning_of(images), log_prior=torch.zeros(1))
    _, sums = expect_turned(views, turning, n_groups=1, shifts_angst=shifts)
    assert float(sums.class_weight.sum()) == pytest.approx(150, rel=1e-4)
    ring_sums = RingSums.of(sums)
    mask = soft_circle(BOX, 28 / PIXEL_ANGST, 10 / PIXEL_ANGST)
    compact = CompactSpace.make(mask, radius=RADIUS, n_orders=ring_sums.numerator.shape[1])
    average = images_of_orders(plain_averages(ring_sums, compact), BOX)[0]
    disc = soft_circle(BOX, 28 / PIXEL_ANGST, 0) > 0
    both = torch.stack([average[disc], images[0, disc]])
    assert float(torch.corrcoef(both)[0, 1]) > 0.95


def test_families_of_classes_see_all_views_each_by_itself():
    setting, images = planar_setting(energy=20.0)
    views, *_ = some_views(setting, 60)
    zero = torch.zeros(60, 2, dtype=torch.float64)
    alone = turning_of(images)
    other = replace(alone, averages=alone.averages.flip(2), log_prior=torch.zeros(2))
    both = replace(
        alone,
        averages=torch.cat([alone.averages, other.averages]),
        log_prior=torch.cat([alone.log_prior, other.log_prior + 3]),
        n_families=2,
    )
    poses, sums = expect_turned(views, both, n_groups=1, shifts_angst=zero)
    for family, turning in enumerate((alone, other)):
        expected_poses, expected = expect_turned(views, turning, n_groups=1, shifts_angst=zero)
        mine = slice(2 * family, 2 * family + 2)
        torch.testing.assert_close(
            poses.class_mass[:, mine], expected_poses.class_mass, rtol=1e-3, atol=1e-5
        )
        for name in ("numerator", "denominator", "class_weight"):
            torch.testing.assert_close(
                getattr(sums, name)[mine], getattr(expected, name), rtol=1e-3, atol=1e-2
            )


def test_noise_is_measured_where_it_is_asked_for():
    setting, images = planar_setting()
    views, *_ = some_views(setting, 10)
    zero = torch.zeros(10, 2, dtype=torch.float64)
    silent = replace(turning_of(images), is_noise_measured=False)
    poses, sums = expect_turned(views, silent, n_groups=1, shifts_angst=zero)
    measured_poses, measured = expect_turned(
        views, turning_of(images), n_groups=1, shifts_angst=zero
    )
    assert not sums.residual_count.any()
    assert measured.residual_count.any()
    assert torch.equal(sums.numerator, measured.numerator)
    assert torch.equal(poses.loglik, measured_poses.loglik)


def test_one_view_or_many_at_once_are_the_same():
    setting, images = planar_setting()
    views, *_ = some_views(setting, 5)
    zero = torch.zeros(5, 2, dtype=torch.float64)
    turning = turning_of(images)
    whole, _ = expect_turned(views, turning, n_groups=1, shifts_angst=zero)
    for i in range(5):
        one, _ = expect_turned(
            views.take(slice(i, i + 1)), turning, n_groups=1, shifts_angst=zero[:1]
        )
        assert one.loglik[0] == pytest.approx(float(whole.loglik[i]), abs=1e-3)


def test_grid_of_rotations_is_as_fine_as_the_orders():
    _, images = planar_setting()
    turning = turning_of(images)
    assert turning.n_psi >= 2 * turning.grid.n_orders - 1
    assert len(in_plane(turning.n_psi)) == len(turning.psi_deg)


def test_rings_on_another_device_say_the_same():
    """12 views; the device is made up."""
    setting, images = planar_setting()
    views, *_ = some_views(setting, 12)
    turning, centre = turning_of(images), torch.zeros(12, 2, dtype=torch.float64)
    poses, sums = expect_turned(views, turning, n_groups=1, shifts_angst=centre)
    with elsewhere() as device:
        found = expect_turned(
            to_device(views, device), turning, n_groups=1, shifts_angst=centre.to(device)
        )
        poses_there, sums_there = to_device(found, "cpu")
    for name, expected in vars(sums).items():
        assert_close_to_peak(getattr(sums_there, name), expected)
    assert_exact(poses_there.reference, poses.reference)
    assert_exact(poses_there.psi_deg, poses.psi_deg)
