import dataclasses

import pytest
import torch

from tests.algorithms.em.model_images import draw_views, make_setting
from verglas.algorithms.em.cells import Cells, likeliest_rows, likely_children
from verglas.algorithms.em.dense import Bank, DenseViews, dense_evidence, dense_expectation
from verglas.algorithms.em.expectation import Level, References, Search, expect
from verglas.algorithms.em.noise import noise_window
from verglas.algorithms.em.pruned import pruned_expectation
from verglas.algorithms.em.search import child_rotations, shift_grid
from verglas.kernels.so3 import orientation_grid, random_rotations, rotation_angle_deg


def _simulated(n_views=6, energy=12.0, radius=6, n_references=1):
    setting = make_setting(box=20, radius=radius, energy=energy, n_references=n_references)
    generator = torch.Generator().manual_seed(1)
    rotations = orientation_grid(1)[torch.randint(576, (n_views,), generator=generator)]
    shifts = 3 * torch.randn(n_views, 2, generator=generator, dtype=torch.float64)
    return setting, draw_views(setting, rotations, shifts)


def _prepared(views, reach=6.0):
    return DenseViews.make(views, shifts_angst=shift_grid(reach, 5.0), shift_prior_angst=4.0)


def _dense(setting, views, order, reach=6.0):
    dense = _prepared(views, reach)
    weight = torch.full((len(setting.half_volumes),), 1 / len(setting.half_volumes))
    rotations = orientation_grid(order)
    bank = Bank.make(setting.half_volumes, rotations, weight, views.disc.frequencies_px)
    return dense, bank, noise_window(views.disc, 8.0)


def _half_volumes(sums, setting, views):
    numerators = torch.zeros(2, len(setting.half_volumes), *setting.half_volumes.shape[1:]) + 0j
    denominators = torch.zeros(numerators.shape)
    frequencies, radius = views.disc.frequencies_px, setting.radius
    sums.insert_into(numerators, denominators, frequencies, radius=radius, padding=2)
    return numerators, denominators


@pytest.mark.parametrize("n_references", [1, 2])
def test_dense_sums_are_those_of_the_general_expectation(n_references):
    setting, views = _simulated(n_references=n_references)
    dense, bank, window = _dense(setting, views, order=1)
    found = dense_expectation(dense, bank, window=window)
    search = Search(
        orientation_grid(1),
        (Level(30.0, setting.radius, dense.shifts_angst),),
        shift_prior_angst=4.0,
        noise_radius_angst=32.0,
    )
    prior = torch.full((n_references,), 1 / n_references).log()
    references = References(setting.half_volumes, prior, padding=2, planar=False)
    poses, sums = expect(views, references, search, n_groups=1)
    numerators, denominators = _half_volumes(found, setting, views)
    largest = sums.numerator.abs().max()
    assert (numerators.sum(0) - sums.numerator).abs().max() < 1e-3 * largest
    assert (denominators.sum(0) - sums.denominator).abs().max() < 1e-3 * sums.denominator.max()
    difference = found.loglik - poses.loglik
    assert float(difference.max() - difference.min()) < 1e-3
    total = found.row_mass.sum()
    assert float(total) == pytest.approx(len(views), rel=1e-4)


def test_evidence_alone_is_that_of_the_whole_pass():
    setting, views = _simulated()
    dense, bank, window = _dense(setting, views, order=1)
    whole = dense_expectation(dense, bank, window=window, temperature=0.7)
    alone = dense_evidence(dense, bank, temperature=0.7)
    assert torch.allclose(alone.loglik, whole.loglik)
    assert torch.allclose(alone.mean_shift_angst, whole.mean_shift_angst)
    assert alone.effective_rows == pytest.approx(whole.effective_rows)


@pytest.mark.parametrize("energy", [3.0, 300.0])
def test_sums_hold_every_view_however_few_rows_it_takes(energy):
    # strong views leave most of the 576 rows unused, weak ones hardly any
    setting, views = _simulated(n_views=12, energy=energy)
    dense, bank, window = _dense(setting, views, order=1)
    found = dense_expectation(dense, bank, window=window)
    assert float(found.weight.sum()) == pytest.approx(float(dense.weight.sum()), rel=1e-3)


def test_halves_are_of_different_views():
    setting, views = _simulated()
    dense, bank, window = _dense(setting, views, order=1)
    _, denominators = _half_volumes(dense_expectation(dense, bank, window=window), setting, views)
    whole = dense.weight[: (len(views) + 1) // 2].sum()
    assert float(denominators[0].sum()) == pytest.approx(float(whole), rel=1e-3)


def test_children_of_all_cells_give_the_dense_answer():
    setting, views = _simulated(n_views=2)
    dense, bank, window = _dense(setting, views, order=1)
    kept = [torch.arange(len(bank.slices))] * len(views)
    found = pruned_expectation(
        dense, setting.half_volumes, Cells.of_bank(bank, 30.0), kept, window=window
    )
    children = child_rotations(orientation_grid(1), 30.0).reshape(-1, 3, 3)
    all_children = Bank.make(
        setting.half_volumes, children, torch.ones(1), views.disc.frequencies_px
    )
    wanted = dense_expectation(dense, all_children, window=window)
    assert torch.allclose(found.loglik, wanted.loglik, atol=2e-3)
    assert torch.allclose(found.mean_shift_angst, wanted.mean_shift_angst, atol=1e-3)
    ours, theirs = (_half_volumes(sums, setting, views)[0].sum(0) for sums in (found, wanted))
    # rows of less than a thousandth of the best are left out
    assert (ours - theirs).abs().max() < 0.02 * theirs.abs().max()


def test_likeliest_rows_hold_the_true_cell():
    setting = make_setting(box=20, radius=6, energy=20.0)
    grid = orientation_grid(1)
    true = torch.tensor([5, 100, 321, 500])
    views = draw_views(setting, grid[true], torch.zeros(4, 2, dtype=torch.float64))
    dense, bank, _ = _dense(setting, views, order=1)
    kept = likeliest_rows(dense, bank, temperature=1.5, max_rows=24)
    assert all(int(row) in rows.tolist() for row, rows in zip(true, kept, strict=True))
    assert all(len(rows) <= 24 for rows in kept)


def test_descending_keeps_the_true_pose_in_the_last_cells():
    # from 15 to 3.75 degrees, all shells from 7.5 on; 8 views of 100 log units, centred
    setting = make_setting(box=20, radius=6, energy=100.0)
    true = random_rotations(8, generator=torch.Generator().manual_seed(1))
    views = draw_views(setting, true, torch.zeros(8, 2, dtype=torch.float64))
    dense, bank, _ = _dense(setting, views.prefix(4), order=2)
    keep = {"temperature": 1.5, "max_rows": 24}
    cells, kept = Cells.of_bank(bank, 15.0), likeliest_rows(dense, bank, **keep)
    for _ in range(2):
        cells, kept = likely_children(_prepared(views), setting.half_volumes, cells, kept, **keep)
    assert cells.step_deg == 3.75
    assert all(len(rows) <= 24 for rows in kept)
    for rotation, rows in zip(true, kept, strict=True):
        turn = cells.rotations_ref_to_img[rows] @ rotation.mT
        assert float(rotation_angle_deg(turn).min()) < 8.0


def test_noise_factor_is_one_when_the_model_is_right():
    setting, views = _simulated(n_views=60, radius=8)
    dense, bank, window = _dense(setting, views, order=2)
    found = dense_expectation(dense, bank, window=window)
    # the best of 4608 poses fits some of the noise, which takes a few per cent
    assert float(found.noise_factor[2:].mean()) == pytest.approx(1.0, abs=0.15)
    louder = dataclasses.replace(views, noise_power=views.noise_power / 2)
    found = dense_expectation(_prepared(louder), bank, window=window)
    assert float(found.noise_factor[2:].mean()) == pytest.approx(2.0, abs=0.35)
