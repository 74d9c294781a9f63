"""Scores and posteriors of the dense search."""

import pytest
import torch

from tests.algorithms.em.model_images import (
    PIXEL_ANGST,
    brute_force_loglik,
    draw_images,
    draw_views,
    in_plane,
    make_setting,
)
from tests.tolerance import F64
from verglas.algorithms.em.search import (
    Posterior,
    as_real,
    child_rotations,
    posterior_of_bank,
    shift_grid,
)
from verglas.algorithms.views import make_views
from verglas.kernels.slices import extract_slices
from verglas.kernels.so3 import orientation_grid, random_rotations, rotation_angle_deg

# float32 sums of a few hundred terms that nearly cancel; scores are of the order of 10
SCORE32 = {"rtol": 1e-4, "atol": 2e-3}


def random_poses(n, *, planar=False, seed=0, shift_angst=5.0):
    generator = torch.Generator().manual_seed(seed)
    rotations = in_plane(n) if planar else random_rotations(n, generator=generator)
    return rotations, shift_angst * torch.randn(n, 2, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("planar", [False, True])
def test_scores_are_the_gaussian_log_likelihood_of_whole_images(planar):
    setting = make_setting(box=17, planar=planar, noise=(1.0, 2.5), scale=(0.8, 1.3))
    rotations, true_shifts = random_poses(5, planar=planar)
    group = torch.tensor([0, 1, 0, 1, 1])
    images, optics = draw_images(setting, rotations, true_shifts, group=group)
    views = make_views(
        images,
        optics=optics,
        noise_power=setting.noise_power,
        scale=setting.scale,
        group=group,
        disc=setting.disc,
        pixel_size_angst=PIXEL_ANGST,
    )
    bank = extract_slices(setting.half_volumes[0], rotations, setting.disc.frequencies_px)
    shifts = torch.tensor([[0.0, 0.0], [7.0, -3.0], [-2.0, 5.0]])
    expected = brute_force_loglik(images, optics, bank, shifts, setting=setting, group=group)
    log_prior_row = torch.tensor([0.0, -1.0, -0.5, 0.3, 0.0])
    log_prior_shift = torch.tensor([[0.0, -0.7, -0.2]])
    expected = expected + log_prior_row + log_prior_shift[:, :, None]
    posterior, _ = posterior_of_bank(
        views,
        bank,
        shifts_angst=shifts,
        log_prior_row=log_prior_row,
        log_prior_shift=log_prior_shift,
    )
    evidence = expected.flatten(1).logsumexp(1)
    torch.testing.assert_close(posterior.evidence_loglik, evidence, **SCORE32)
    probability = posterior.likelihood * posterior.norm[:, None, None]
    wanted = (expected - evidence[:, None, None]).exp()
    torch.testing.assert_close(probability.double(), wanted, rtol=5e-3, atol=1e-5)


def test_shifted_views_are_the_whitened_views_moved():
    setting = make_setting()
    views = draw_views(setting, *random_poses(4))
    bank = extract_slices(setting.half_volumes[0], in_plane(3), setting.disc.frequencies_px)
    shifts = torch.tensor([[0.0, 0.0], [6.0, 2.0]])
    _, shifted = posterior_of_bank(
        views,
        bank,
        shifts_angst=shifts,
        log_prior_row=torch.zeros(3),
        log_prior_shift=torch.zeros(1, 2),
    )
    for t, shift in enumerate(shifts):
        expected = views.shifted(shift.expand(4, 2)).whitened()[0]
        torch.testing.assert_close(shifted[:, t], expected)


def test_temperature_divides_the_scores():
    scores = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(1)) * 10
    warm = Posterior.of_scores(scores.clone(), temperature=2.0)
    flat = (scores / 2).double().flatten(1)
    torch.testing.assert_close(warm.evidence_loglik, flat.logsumexp(1), rtol=1e-5, atol=1e-5)
    expected = flat.softmax(1).view(3, 4, 5)
    got = (warm.likelihood * warm.norm[:, None, None]).double()
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(warm.row_mass.double(), expected.sum(1), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(warm.shift_mass.double(), expected.sum(2), rtol=1e-4, atol=1e-6)


def test_best_pose_is_that_of_the_largest_score():
    scores = torch.randn(6, 7, 9, generator=torch.Generator().manual_seed(2))
    posterior = Posterior.of_scores(scores.clone())
    for i in range(6):
        assert scores[i, posterior.best_shift[i], posterior.best_row[i]] == scores[i].max()
    expected = scores.double().flatten(1).softmax(1).amax(1)
    torch.testing.assert_close(posterior.best_weight.double(), expected, rtol=1e-5, atol=0)


def test_unseen_rows_have_no_mass_and_are_never_drawn():
    scores = torch.zeros(1, 3, 4)
    scores[:, :, [0, 2]] = -torch.inf
    posterior = Posterior.of_scores(scores)
    assert posterior.row_mass[0].tolist() == [0, 0.5, 0, 0.5]
    for uniform in (0.0, 0.3, 0.5, 0.999999):
        row, _ = posterior.draw(torch.tensor([uniform]))
        assert int(row) in (1, 3)


def test_poses_are_drawn_as_often_as_they_are_probable():
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(1, 3, 5, generator=generator)
    probability = scores.double().flatten().softmax(0).view(3, 5)
    n = 20000
    posterior = Posterior.of_scores(scores.expand(n, 3, 5).clone())
    row, shift = posterior.draw(torch.rand(n, generator=generator))
    count = torch.zeros(3, 5).index_put_((shift, row), torch.ones(n), accumulate=True)
    error = (probability * (1 - probability) / n).sqrt()
    assert ((count / n - probability).abs() < 4 * error).all()


@pytest.mark.parametrize(("reach", "step"), [(5.0, 2.0), (3.0, 3.0), (0.0, 1.0), (10.0, 1.7)])
def test_shifts_are_a_hexagonal_disc_with_the_origin_first(reach, step):
    shifts = shift_grid(reach, step)
    assert shifts[0].tolist() == [0, 0]
    length = shifts.norm(dim=1)
    assert length.max() <= reach + 1e-9
    assert (length.diff() >= 0).all()
    # each point owns step^2 sqrt(3)/2; those on the rim make it inexact
    area = torch.pi * reach**2 / (step**2 * 3**0.5 / 2)
    rim = 2 * torch.pi * reach / step
    assert abs(len(shifts) - area) <= rim + 1
    if len(shifts) > 1:
        distance = torch.cdist(shifts, shifts).fill_diagonal_(torch.inf)
        torch.testing.assert_close(
            distance.amin(1), torch.full((len(shifts),), step, dtype=torch.float64), **F64
        )


def test_children_lie_a_quarter_step_from_their_parent_on_each_axis():
    parents = random_rotations(20, generator=torch.Generator().manual_seed(0))
    children = child_rotations(parents, 4.0)
    relative = children @ parents[:, None].transpose(-1, -2)
    angle = rotation_angle_deg(relative.flatten(0, 1))
    torch.testing.assert_close(angle, torch.full_like(angle, 3**0.5), **F64)
    between = children[:, :, None] @ children[:, None].transpose(-1, -2)
    closest = rotation_angle_deg(between.flatten(0, 2)).view(20, 8, 8)
    closest = closest.where(closest > 0.1, torch.inf)
    assert closest.min() > 0.99 * 2.0


@pytest.mark.parametrize("symmetry", ["C1", "O"])
def test_children_of_a_grid_cover_all_orientations_evenly(symmetry):
    # poses are nearer to some child than the corner of a cube that tiled perfectly, with the
    # slack that cells of a sphere need
    from verglas.kernels.so3 import pose_distance_deg
    from verglas.kernels.symmetry import symmetry_operators

    order = 1 if symmetry == "C1" else 2
    step = 60 / 2**order
    children = child_rotations(orientation_grid(order, symmetry=symmetry), step).flatten(0, 1)
    operators = symmetry_operators(symmetry)
    poses = random_rotations(60, generator=torch.Generator().manual_seed(5))
    nearest = []
    for pose in poses:
        repeated = pose.expand(len(children), 3, 3)
        nearest.append(pose_distance_deg(children, repeated, operators).min())
    nearest = torch.stack(nearest)
    corner = 3**0.5 / 2 * step / 2
    assert nearest.max() < 1.35 * corner
    assert nearest.mean() < 0.6 * corner * 1.25


def test_real_view_of_complex_values_keeps_products():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(2, 5, dtype=torch.complex64, generator=generator) for _ in range(2))
    expected = (a @ b.conj().T).real
    torch.testing.assert_close(as_real(a) @ as_real(b).T, expected)
