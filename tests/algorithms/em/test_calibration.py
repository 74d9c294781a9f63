"""Probabilities mean what they say: what has p = 0.3 is true three times in ten.

Images are drawn exactly from the model: reference, pose and shift from the grid and the
priors, noise of known power. A factor 2 in the scores, the commonest bug of such code,
must be seen, so the same test is shown to fail with scores doubled and halved.
"""

import itertools

import pytest
import torch

from tests.algorithms.em.model_images import PIXEL_ANGST, draw_views, in_plane, make_setting
from tests.tolerance import STAT
from verglas.algorithms.em.expectation import Level, References, Search, expect
from verglas.algorithms.em.ladder import score_cells, select_cells
from verglas.algorithms.em.search import Posterior, posterior_of_bank, shift_grid
from verglas.kernels.slices import extract_slices
from verglas.kernels.so3 import orientation_grid

BINS = torch.tensor([0.02, 0.1, 0.25, 0.45, 0.7, 0.9, 1.0001], dtype=torch.float64)
SHIFTS = shift_grid(1.05 * 6.0, 6.0)
PRIOR_ANGST = 6.0
N_VIEWS = 1500


def log_prior_shift():
    return (-SHIFTS.square().sum(-1) / (2 * PRIOR_ANGST**2)).float()[None]


def drawn_poses(n_rows, generator):
    """Rows uniform, shifts by their prior."""
    row = torch.randint(n_rows, (N_VIEWS,), generator=generator)
    weight = log_prior_shift()[0].exp().expand(N_VIEWS, -1)
    return row, torch.multinomial(weight, 1, generator=generator).squeeze(1)


def worst_deviation(probability, is_true):
    """Largest |hits - expected hits| over bins of probability, in standard errors."""
    worst = 0.0
    for low, high in itertools.pairwise(BINS):
        inside = (probability >= low) & (probability < high)
        p = probability[inside]
        if len(p) < 30:
            continue
        error = (p * (1 - p)).sum().sqrt().clamp_min(1.0)
        worst = max(worst, float((is_true[inside].double().sum() - p.sum()).abs() / error))
    assert worst > 0, "no bin was filled"
    return worst


def of_true_pose(posterior, row, shift):
    """All probabilities, flat, and which belong to the pose that was drawn."""
    probability = (posterior.likelihood * posterior.norm[:, None, None]).double()
    is_true = torch.zeros_like(probability, dtype=torch.bool)
    is_true[torch.arange(len(row)), shift, row] = True
    return probability.flatten(), is_true.flatten()


@pytest.mark.parametrize("planar", [True, False])
def test_dense_posterior_is_calibrated_and_a_factor_two_is_seen(planar):
    setting = make_setting(planar=planar, energy=5.0)
    rotations = in_plane(40) if planar else orientation_grid(0)
    generator = torch.Generator().manual_seed(11)
    row, shift = drawn_poses(len(rotations), generator)
    views = draw_views(setting, rotations[row], SHIFTS[shift])
    bank = extract_slices(setting.half_volumes[0], rotations, setting.disc.frequencies_px)
    worst = {}
    for factor in (0.5, 1.0, 2.0):
        posterior, _ = posterior_of_bank(
            views,
            bank,
            shifts_angst=SHIFTS,
            log_prior_row=torch.zeros(len(bank)),
            log_prior_shift=log_prior_shift(),
            temperature=1 / factor,
        )
        worst[factor] = worst_deviation(*of_true_pose(posterior, row, shift))
    assert worst[1.0] < STAT, worst
    assert worst[0.5] > 2 * STAT, worst
    assert worst[2.0] > 2 * STAT, worst


def test_posterior_of_cells_is_calibrated():
    setting = make_setting(energy=5.0)
    parents = orientation_grid(0)[::4]
    every = torch.arange(len(parents))
    cells = select_cells(
        torch.full((N_VIEWS, len(parents)), 1 / len(parents)),
        every[None],
        rotations_ref_to_img=parents,
        reference=torch.zeros_like(every),
        step_deg=60.0,
        kept_mass=1.0,
        min_cells=1,
        max_cells=len(parents),
    )
    children = cells.children.flatten(0, 1)
    row, shift = drawn_poses(len(children), torch.Generator().manual_seed(12))
    views = draw_views(setting, children[row], SHIFTS[shift])
    # a view lists its cells in the order of its slots, so find the row of the true one
    slot = torch.empty(N_VIEWS, len(parents), dtype=torch.long)
    slot[cells.view, cells.cell] = cells.slot
    listed = slot[torch.arange(N_VIEWS), row // 8] * 8 + row % 8
    worst = {}
    for factor in (0.5, 1.0, 2.0):
        result = score_cells(
            views,
            setting.half_volumes,
            cells,
            shifts_angst=SHIFTS,
            log_prior_shift=log_prior_shift().expand(N_VIEWS, -1),
            log_prior_reference=torch.zeros(1),
            padding=2,
        )
        posterior = Posterior.of_scores(result.loglik.contiguous(), 1 / factor)
        worst[factor] = worst_deviation(*of_true_pose(posterior, listed, shift))
    assert worst[1.0] < STAT, worst
    assert min(worst[0.5], worst[2.0]) > 1.5 * STAT, worst


def test_best_pose_and_class_are_right_as_often_as_promised():
    # three references of unequal share, through the whole expectation step
    setting = make_setting(n_references=3, energy=6.0, noise=(1.0, 3.0), scale=(0.9, 1.4))
    rotations = orientation_grid(0)[::3]
    generator = torch.Generator().manual_seed(13)
    row, shift = drawn_poses(len(rotations), generator)
    share = torch.tensor([0.6, 0.3, 0.1])
    reference = torch.multinomial(share, N_VIEWS, replacement=True, generator=generator)
    group = torch.randint(2, (N_VIEWS,), generator=generator)
    views = draw_views(setting, rotations[row], SHIFTS[shift], group=group, reference=reference)
    poses, sums = expect(
        views,
        References(setting.half_volumes, share.log(), 2, False),
        Search(
            rotations_ref_to_img=rotations,
            levels=(Level(60.0, setting.radius, SHIFTS),),
            shift_prior_angst=PRIOR_ANGST,
            noise_radius_angst=0.4 * setting.box * PIXEL_ANGST,
        ),
        n_groups=2,
    )
    at = torch.arange(N_VIEWS)
    is_right = (
        (poses.reference == reference)
        & ((poses.rotation_ref_to_img - rotations[row]).abs().amax((1, 2)) < 1e-9)
        & ((poses.shift_angst - SHIFTS[shift])[at].norm(dim=1) < 1e-9)
    )
    assert worst_deviation(poses.weight.double(), is_right) < STAT
    # expected class counts, with the binomial error of the draw
    expected = N_VIEWS * share.double()
    error = (expected * (1 - share)).sqrt()
    assert ((sums.class_weight - expected).abs() < STAT * error).all()
    drawn = torch.bincount(reference, minlength=3).double()
    assert ((sums.class_weight - drawn).abs() < STAT * drawn.sqrt()).all()
