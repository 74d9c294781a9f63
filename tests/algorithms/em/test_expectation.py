"""The expectation step: what it adds up, and the ladder against the dense search."""

import dataclasses

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
from tests.tolerance import assert_close_to_peak, assert_exact
from verglas.algorithms.em import dense_pass
from verglas.algorithms.em.expectation import (
    Level,
    Poses,
    References,
    Search,
    expect,
    scatter,
)
from verglas.algorithms.em.ladder import score_cells, select_cells
from verglas.algorithms.em.mstep import Sums
from verglas.algorithms.em.search import Posterior, child_rotations, shift_grid
from verglas.algorithms.views import make_views
from verglas.kernels.slices import extract_slices
from verglas.kernels.so3 import orientation_grid, random_rotations

PRIOR_ANGST = 5.0
# float32 products of a few hundred terms; the sums are compared at the peak
SUM32 = 2e-5


def references_of(setting, log_prior=None):
    n = len(setting.half_volumes)
    log_prior = torch.zeros(n) if log_prior is None else log_prior
    return References(setting.half_volumes, log_prior, 2, setting.planar)


def search_of(setting, rotations, *levels, **options):
    return Search(
        rotations_ref_to_img=rotations,
        levels=tuple(Level(step, setting.radius, shifts) for step, shifts in levels),
        shift_prior_angst=PRIOR_ANGST,
        noise_radius_angst=0.4 * setting.box * PIXEL_ANGST,
        **options,
    )


def some_views(setting, n=30, *, planar=False, seed=0, n_groups=2):
    generator = torch.Generator().manual_seed(seed)
    rotations = in_plane(n) if planar else random_rotations(n, generator=generator)
    shifts = 3.0 * torch.randn(n, 2, generator=generator, dtype=torch.float64)
    group = torch.arange(n) % n_groups
    return draw_views(setting, rotations, shifts, group=group, seed=seed)


def two_groups(**options):
    return make_setting(noise=(1.0, 2.0), scale=(0.8, 1.2), **options)


def add(first, second):
    return Sums(**{k: a + getattr(second, k) for k, a in vars(first).items()})


def assert_sums_agree(first, second, fraction=SUM32, skip=()):
    for name, expected in vars(second).items():
        if name not in skip:
            assert_close_to_peak(getattr(first, name), expected, fraction)


def dense_and_ladder(setting, parents, shifts, *, step_deg, **options):
    """The same grid of poses, once as one dense level and once as a complete ladder."""
    dense = search_of(
        setting,
        child_rotations(parents, step_deg).flatten(0, 1),
        (step_deg / 2, shifts),
        **options,
    )
    ladder = search_of(
        setting,
        parents,
        # one shift on the first level, so that it leaves the centre where it is
        (step_deg, torch.zeros(1, 2, dtype=torch.float64)),
        (step_deg / 2, shifts),
        kept_mass=2.0,
        max_cells=10**6,
        temperature=1e6,
        **options,
    )
    return dense, ladder


@pytest.mark.parametrize("n_references", [1, 2])
def test_complete_ladder_equals_dense_search(n_references):
    setting = two_groups(n_references=n_references)
    views = some_views(setting)
    dense, ladder = dense_and_ladder(
        setting, orientation_grid(0)[::6], shift_grid(6.0, 6.0), step_deg=60.0
    )
    log_prior = torch.log_softmax(torch.arange(float(n_references)), 0)
    references = references_of(setting, log_prior)
    poses, sums = expect(views, references, dense, n_groups=2)
    climbed, climbed_sums = expect(views, references, ladder, n_groups=2)
    torch.testing.assert_close(climbed.loglik, poses.loglik, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(climbed.weight, poses.weight, rtol=2e-3, atol=1e-4)
    torch.testing.assert_close(climbed.effective_cells, poses.effective_cells, rtol=5e-3, atol=1e-3)
    assert_exact(climbed.reference, poses.reference)
    torch.testing.assert_close(climbed.rotation_ref_to_img, poses.rotation_ref_to_img)
    torch.testing.assert_close(climbed.shift_angst, poses.shift_angst)
    # the ladder leaves out pairs below 1e-4, and numbers poses in another order for the draw
    drawn = ("residual_power", "scale_cross", "scale_power")
    assert_sums_agree(climbed_sums, sums, 2e-3, skip=drawn)
    assert_exact(climbed_sums.residual_count, sums.residual_count)


def test_scores_of_cells_are_the_log_likelihood_of_whole_images():
    setting = two_groups(box=17)
    generator = torch.Generator().manual_seed(4)
    rotations = random_rotations(4, generator=generator)
    group = torch.tensor([0, 1, 1, 0])
    images, optics = draw_images(setting, rotations, torch.zeros(4, 2).double(), group=group)
    views = make_views(
        images,
        optics=optics,
        noise_power=setting.noise_power,
        scale=setting.scale,
        group=group,
        disc=setting.disc,
        pixel_size_angst=PIXEL_ANGST,
    )
    # every view keeps the cells of its own pose and of the next one
    mass = torch.eye(4) + torch.eye(4).roll(1, 1)
    cells = select_cells(
        mass / 2,
        torch.arange(4)[None],
        rotations_ref_to_img=rotations,
        reference=torch.zeros(4, dtype=torch.long),
        step_deg=20.0,
        kept_mass=0.999,
        min_cells=1,
        max_cells=4,
    )
    shifts = torch.tensor([[0.0, 0.0], [5.0, -2.0]]).double()
    log_prior = torch.tensor([[0.0, -0.5]]).expand(4, 2)
    result = score_cells(
        views,
        setting.half_volumes,
        cells,
        shifts_angst=shifts,
        log_prior_shift=log_prior,
        log_prior_reference=torch.zeros(1),
        padding=2,
    )
    posterior = Posterior.of_scores(result.loglik.contiguous())
    slices = extract_slices(
        setting.half_volumes[0], cells.children.flatten(0, 1), setting.disc.frequencies_px
    )
    expected = brute_force_loglik(images, optics, slices, shifts, setting=setting, group=group)
    expected = expected + log_prior[0][:, None]
    for i in range(4):
        mine = torch.cat([torch.arange(8) + 8 * i, torch.arange(8) + 8 * ((i + 1) % 4)])
        evidence = expected[i][:, mine].flatten().logsumexp(0)
        assert float(posterior.evidence_loglik[i]) == pytest.approx(float(evidence), abs=2e-3)


@pytest.mark.parametrize("finer", [False, True])
def test_sums_of_chunks_add_up_to_those_of_the_whole(finer):
    setting = two_groups()
    views = some_views(setting, 40)
    levels = [(30.0, shift_grid(6.0, 6.0)), (15.0, shift_grid(3.0, 3.0))]
    search = search_of(setting, orientation_grid(1)[::8], *levels[: 1 + finer])
    references = references_of(setting)
    poses, whole = expect(views, references, search, n_groups=2)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    parts = [expect(views.take(i), references, search, n_groups=2) for i in order.split(15)]
    total = parts[0][1]
    for _, sums in parts[1:]:
        total = add(total, sums)
    assert_sums_agree(total, whole, 1e-4)
    joined = Poses.join([part for part, _ in parts])
    torch.testing.assert_close(joined.loglik, poses.loglik[order], rtol=1e-5, atol=1e-4)
    # the centre between levels is a float32 mean
    torch.testing.assert_close(joined.shift_angst, poses.shift_angst[order], rtol=0, atol=1e-5)


@pytest.mark.parametrize("finer", [False, True])
def test_order_and_number_of_blocks_do_not_matter(finer):
    # cells are worked through 64 at a time, views as many as the memory holds
    setting = two_groups()
    views = some_views(setting, 40)
    levels = [(30.0, shift_grid(6.0, 6.0)), (15.0, shift_grid(3.0, 3.0))]
    grid = orientation_grid(1)[::5]
    search = search_of(setting, grid, *levels[: 1 + finer])
    backwards = dataclasses.replace(search, rotations_ref_to_img=grid.flip(0), block_gb=1e-6)
    references = references_of(setting)
    poses, sums = expect(views, references, search, n_groups=2)
    turned, same = expect(views, references, backwards, n_groups=2)
    torch.testing.assert_close(turned.loglik, poses.loglik, rtol=1e-5, atol=1e-4)
    drawn = ("residual_power", "scale_cross", "scale_power")
    assert_sums_agree(same, sums, 1e-4, skip=drawn)


@pytest.mark.parametrize("finer", [False, True])
def test_a_lack_of_memory_changes_nothing_but_the_time(finer, monkeypatch):
    """Blocks of more than three views do not fit."""
    setting = two_groups()
    views = some_views(setting, 20)
    levels = [(30.0, shift_grid(6.0, 6.0)), (15.0, shift_grid(3.0, 3.0))]
    search = search_of(setting, orientation_grid(1)[::5], *levels[: 1 + finer])
    references = references_of(setting)
    poses, sums = expect(views, references, search, n_groups=2)
    name = "scores_of_bank" if finer else "posterior_of_bank"
    whole = getattr(dense_pass, name)

    def limited(views, *args, **options):
        if len(views) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return whole(views, *args, **options)

    monkeypatch.setattr(dense_pass, name, limited)
    short, same = expect(views, references, search, n_groups=2)
    torch.testing.assert_close(short.loglik, poses.loglik, rtol=1e-5, atol=1e-4)
    assert_sums_agree(same, sums, 1e-4, skip=("residual_power", "scale_cross", "scale_power"))


def test_equal_input_gives_equal_result():
    setting = two_groups(n_references=2)
    views = some_views(setting)
    levels = [(30.0, shift_grid(6.0, 6.0)), (15.0, shift_grid(3.0, 3.0))]
    search = search_of(setting, orientation_grid(1)[::8], *levels)
    first, sums = expect(views, references_of(setting), search, n_groups=2)
    again, same = expect(views, references_of(setting), search, n_groups=2)
    assert_sums_agree(same, sums, 0.0)
    for name, value in vars(first).items():
        assert_exact(getattr(again, name), value)


@pytest.mark.parametrize("planar", [False, True])
def test_numerator_is_the_gradient_of_the_evidence(planar):
    # at a reference of nothing: d log evidence = Re <numerator, d map>, whatever the poses
    setting = two_groups(planar=planar)
    views = some_views(setting, planar=planar)
    rotations = in_plane(12) if planar else orientation_grid(0)[::4]
    search = search_of(setting, rotations, (30.0, shift_grid(6.0, 6.0)))
    empty = torch.zeros_like(setting.half_volumes)
    references = dataclasses.replace(references_of(setting), half_volumes=empty)
    _, sums = expect(views, references, search, n_groups=2)
    step = 0.02
    evidence = []
    for sign in (1, -1):
        moved = dataclasses.replace(references, half_volumes=sign * step * setting.half_volumes)
        poses, _ = expect(views, moved, search, n_groups=2)
        evidence.append(poses.loglik.sum())
    measured = float(evidence[0] - evidence[1]) / (2 * step)
    expected = float((sums.numerator * setting.half_volumes.conj()).real.sum())
    assert measured == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("finer", [False, True])
def test_present_centres_only_move_the_origin_of_the_shifts(finer):
    # images moved by whole grid steps, searched about the moved centre, give the same evidence
    # but for the prior, made flat here
    setting = two_groups()
    generator = torch.Generator().manual_seed(2)
    rotations = random_rotations(10, generator=generator)
    zero = torch.zeros(10, 2, dtype=torch.float64)
    moved = torch.tensor([[8.0, -4.0]], dtype=torch.float64).expand(10, 2)
    levels = [(30.0, shift_grid(6.0, 6.0)), (15.0, shift_grid(3.0, 3.0))]
    search = search_of(setting, orientation_grid(1)[::8], *levels[: 1 + finer])
    search = dataclasses.replace(search, shift_prior_angst=1e4)
    still, _ = expect(
        draw_views(setting, rotations, zero, noise=0.0), references_of(setting), search, n_groups=2
    )
    found, _ = expect(
        draw_views(setting, rotations, moved, noise=0.0),
        references_of(setting),
        search,
        n_groups=2,
        shifts_angst=moved,
    )
    torch.testing.assert_close(found.loglik, still.loglik, rtol=1e-4, atol=2e-3)
    torch.testing.assert_close(found.shift_angst - moved, still.shift_angst, rtol=1e-3, atol=1e-2)


def test_shift_squares_are_those_of_the_posterior_about_the_box_centre():
    setting = make_setting(energy=400.0)
    generator = torch.Generator().manual_seed(1)
    grid = orientation_grid(0)[::3]
    row = torch.randint(len(grid), (60,), generator=generator)
    shifts = shift_grid(8.0, 4.0)
    true = shifts[torch.randint(len(shifts), (60,), generator=generator)]
    views = draw_views(setting, grid[row], true)
    search = dataclasses.replace(search_of(setting, grid, (60.0, shifts)), shift_prior_angst=50.0)
    poses, sums = expect(views, references_of(setting), search, n_groups=1)
    assert float(poses.weight.median()) > 0.99
    square, n = sums.shift_square_angst2
    assert n == 60
    # per axis; a few views are still uncertain
    assert float(square) == pytest.approx(float(true.square().sum() / 2), rel=0.02)


def test_selected_cells_hold_the_mass_asked_for():
    generator = torch.Generator().manual_seed(0)
    mass = torch.rand(12, 50, generator=generator).pow(6)
    mass = mass / mass.sum(1, keepdim=True)
    cells = select_cells(
        mass,
        torch.arange(50)[None],
        rotations_ref_to_img=random_rotations(50, generator=generator),
        reference=torch.arange(50),
        step_deg=10.0,
        kept_mass=0.8,
        min_cells=1,
        max_cells=40,
    )
    kept = torch.zeros_like(mass)
    kept[cells.view, cells.reference[cells.cell]] = 1
    held = (mass * kept).sum(1)
    assert (held >= 0.8 - 1e-6).all()
    smallest = torch.where(kept.bool(), mass, torch.inf).amin(1)
    assert (held - smallest < 0.8).all()
    assert (torch.where(kept.bool(), 0, mass).amax(1) <= smallest).all()
    assert (cells.cell.diff() >= 0).all()
    listed = torch.stack([cells.view, cells.slot], 1)
    assert len(torch.unique(listed, dim=0)) == len(listed)


def test_every_view_keeps_a_cell_and_none_more_than_allowed():
    mass = torch.cat([torch.eye(6), torch.full((6, 6), 1 / 6)])
    cells = select_cells(
        mass,
        torch.arange(6)[None],
        rotations_ref_to_img=random_rotations(6, generator=torch.Generator().manual_seed(0)),
        reference=torch.zeros(6, dtype=torch.long),
        step_deg=10.0,
        kept_mass=0.999,
        min_cells=1,
        max_cells=4,
    )
    assert torch.bincount(cells.view).tolist() == [1] * 6 + [4] * 6


def test_views_keep_a_fewest_number_of_cells_but_none_that_is_not_theirs():
    # two views: one certain, one with a short list, as a finer level finds them
    mass = torch.tensor([[1.0, 0, 0, 0, 0, 0], [0.5, 0.5, 0, 0, 0, 0]])
    row_cell = torch.tensor([[0, 1, 2, 3, 4, 5], [3, 4, -1, -1, -1, -1]])
    cells = select_cells(
        mass,
        row_cell,
        rotations_ref_to_img=random_rotations(6, generator=torch.Generator().manual_seed(0)),
        reference=torch.arange(6),
        step_deg=10.0,
        kept_mass=0.999,
        min_cells=3,
        max_cells=4,
    )
    kept = cells.reference[cells.cell]
    assert len(kept[cells.view == 0]) == 3
    assert 0 in kept[cells.view == 0]
    assert kept[cells.view == 1].tolist() == [3, 4]


def test_scattered_views_share_out_their_weight():
    setting = two_groups(n_references=2)
    views = some_views(setting)
    search = search_of(setting, orientation_grid(0), (60.0, torch.zeros(1, 2).double()))

    def scattered(seed):
        return scatter(
            views,
            search,
            n_references=2,
            n_groups=2,
            padding=2,
            planar=False,
            generator=torch.Generator().manual_seed(seed),
        )

    sums = scattered(0)
    assert float(sums.class_weight.sum()) == len(views)
    assert (sums.class_weight > 0).all()
    weight = float(views.whitened()[1].double().sum())
    assert float(sums.denominator.double().sum()) == pytest.approx(weight, rel=1e-5)
    assert_sums_agree(scattered(0), sums, 0.0)
    assert not torch.equal(scattered(1).numerator, sums.numerator)
