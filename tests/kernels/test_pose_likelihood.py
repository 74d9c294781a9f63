"""Scores of views at poses of their own: against slices, a float64 reference and differences."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from tests.tolerance import F64, assert_close_to_peak, assert_exact
from verglas.kernels import pose_likelihood
from verglas.kernels.disc import half_disc
from verglas.kernels.pose_likelihood import insert_at_poses, pose_normals, pose_scores
from verglas.kernels.slices import (
    extract_slices,
    half_volume_size,
    insert_slices,
    volume_to_half_volume,
)
from verglas.kernels.so3 import random_rotations, rotation_from_vector

BOX, RADIUS, PADDING = 24, 10, 2
SIZES = {"box": BOX, "padding": PADDING}
# float32 sums of 160 coefficients: fraction of the largest entry of all views
LOOP32 = 2e-6
STEP = 1e-6  # of the central differences: radians and pixels


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def half_volume():
    """Half volume of smoothed noise in the inner half of the box: rough, and Hermitian."""
    axis = torch.arange(BOX) - BOX // 2
    square = sum(a.square() for a in torch.meshgrid(axis, axis, axis, indexing="ij"))
    volume = torch.randn(BOX, BOX, BOX, generator=seeded()) * torch.exp(-square / (BOX / 5) ** 2)
    return volume_to_half_volume(volume[None], radius=RADIUS, padding=PADDING)[0]


@pytest.fixture(scope="module")
def disc():
    return half_disc(BOX, RADIUS)


@dataclass
class Case:
    """Views with weights of any size, and poses."""

    signal: torch.Tensor
    weight: torch.Tensor
    rotations: torch.Tensor
    shifts_px: torch.Tensor
    probability: torch.Tensor

    def one_pose(self):
        return self.signal, self.weight, self.rotations[:, 0], self.shifts_px[:, 0]

    def all_poses(self):
        return self.signal, self.weight, self.rotations, self.shifts_px


def draw_case(n, n_poses, n_coefficients):
    g = seeded(1)
    return Case(
        signal=6 * torch.randn(n, n_coefficients, dtype=torch.complex64, generator=g),
        weight=torch.rand(n, n_coefficients, generator=g),
        rotations=random_rotations(n * n_poses, generator=g).view(n, n_poses, 3, 3),
        shifts_px=3 * torch.randn(n, n_poses, 2, dtype=torch.float64, generator=g),
        probability=torch.rand(n, n_poses, generator=g),
    )


def shifted(signal, shifts_px, frequencies_px):
    """Views moved by the stored shift, `exp(-2 pi i k . shift)`, in float64."""
    cycles = shifts_px @ frequencies_px.double().T / BOX
    return signal.to(torch.complex128) * torch.exp(-2j * torch.pi * cycles)


def whole_volume(half_volume):
    """All of the Fourier volume in float64, from the half and the mirror rule."""
    right = half_volume.numpy().astype(np.complex128)
    left = np.conj(right[::-1, ::-1, :0:-1])
    return np.concatenate([left, right], axis=2)


def exact_slices(half_volume, rotations, frequencies_px):
    """Trilinear slices in float64 by scipy, `[b, k]`."""
    whole = whole_volume(half_volume)
    plane = np.pad(frequencies_px.double().numpy(), ((0, 0), (0, 1))) * PADDING
    points = plane @ rotations.double().numpy() + whole.shape[0] // 2
    place = np.moveaxis(points, -1, 0)[::-1]
    return torch.from_numpy(map_coordinates(whole, place, order=1))


def exact_prediction(half_volume, case, vector, frequencies_px):
    """The slice at a pose changed by `vector` [5], moved as the image is, whitened: `[b, k]`."""
    _, weight, rotations, shifts_px = case.one_pose()
    turned = rotation_from_vector(vector[:3])[None] @ rotations
    slices = exact_slices(half_volume, turned, frequencies_px)
    back = shifted(torch.ones(1), -(shifts_px + vector[3:]), frequencies_px)
    return slices * back * weight.double().sqrt()


def exact_scores(half_volume, case, vector, frequencies_px):
    """`-|data - prediction|^2 / 2 + |data|^2 / 2`, whitened, `[b]`."""
    data = case.signal.to(torch.complex128) / case.weight.double().sqrt()
    predicted = exact_prediction(half_volume, case, vector, frequencies_px)
    return 0.5 * (data.abs().square() - (data - predicted).abs().square()).sum(1)


def differences(function):
    """Central differences by the five parameters, `[..., 5]`."""
    columns = []
    for i in range(5):
        step = torch.zeros(5, dtype=torch.float64)
        step[i] = STEP
        columns.append((function(step) - function(-step)) / (2 * STEP))
    return torch.stack(columns, -1)


@pytest.mark.parametrize(("n", "n_poses"), [(1, 1), (4, 3)])
def test_scores_are_those_of_slices_and_shifted_views(half_volume, disc, n, n_poses):
    case = draw_case(n, n_poses, disc.n_coefficients)
    found = pose_scores(half_volume, *case.all_poses(), disc.frequencies_px, **SIZES)
    assert found.shape == (n, n_poses)
    assert found.dtype == torch.float64
    for i in range(n):
        slices = extract_slices(half_volume, case.rotations[i], disc.frequencies_px)
        slices = slices.to(torch.complex128)
        cross = slices.conj() * shifted(case.signal[i], case.shifts_px[i], disc.frequencies_px)
        power = case.weight[i] * slices.abs().square()
        assert_close_to_peak(found[i], (cross.real - power / 2).sum(1), LOOP32)


def test_derivatives_are_those_of_the_interpolated_score(half_volume, disc):
    case = draw_case(6, 1, disc.n_coefficients)
    found = pose_normals(half_volume, *case.one_pose(), disc.frequencies_px, **SIZES)
    frequencies = disc.frequencies_px
    zero = torch.zeros(5, dtype=torch.float64)
    assert_close_to_peak(found.score, exact_scores(half_volume, case, zero, frequencies), LOOP32)
    # the interpolant is linear by each axis inside a cell, so a step of 1e-6 leaves 1e-6 of
    # rounding, and a kink where one coefficient of 160 crosses a face
    gradient = differences(lambda v: exact_scores(half_volume, case, v, frequencies))
    for part in (slice(0, 3), slice(3, 5)):
        assert_close_to_peak(found.gradient[:, part], gradient[:, part], 2e-5)


def test_normal_matrix_is_that_of_the_slopes_of_the_prediction(half_volume, disc):
    case = draw_case(6, 1, disc.n_coefficients)
    found = pose_normals(half_volume, *case.one_pose(), disc.frequencies_px, **SIZES)
    slope = differences(lambda v: exact_prediction(half_volume, case, v, disc.frequencies_px))
    normal = torch.einsum("bki,bkj->bij", slope.conj(), slope).real
    assert_exact(found.normal, found.normal.mT)
    scale = normal.diagonal(dim1=1, dim2=2).sqrt()
    unit = scale[:, :, None] * scale[:, None, :]
    assert_close_to_peak(found.normal / unit, normal / unit, 2e-5)
    assert (torch.linalg.eigvalsh(found.normal) > 0).all()


def test_expected_curvature_of_the_score_is_the_normal_matrix(half_volume, disc):
    """Where the view is the prediction itself, Gauss-Newton is Newton."""
    case = draw_case(3, 1, disc.n_coefficients)
    frequencies = disc.frequencies_px
    zero = torch.zeros(5, dtype=torch.float64)
    predicted = exact_prediction(half_volume, case, zero, frequencies)
    case.signal = (predicted * case.weight.sqrt()).to(torch.complex64)
    found = pose_normals(half_volume, *case.one_pose(), frequencies, **SIZES)
    # the score is at its maximum, half the power of the prediction
    assert_close_to_peak(found.score, 0.5 * predicted.abs().square().sum(1), LOOP32)
    size = found.normal.diagonal(dim1=1, dim2=2).sqrt()
    # 1e-6 of the slope of either term, of which the gradient is the difference
    bound = 1e-6 * size * predicted.abs().square().sum(1).sqrt()[:, None]
    assert (found.gradient.abs() <= 10 * bound).all()
    generator = seeded(5)
    for _ in range(4):
        # 2e-4 rad moves the rim by 0.004 voxels
        v = 2e-4 * torch.randn(5, dtype=torch.float64, generator=generator)
        loss = found.score - exact_scores(half_volume, case, v, frequencies)
        expected = 0.5 * torch.einsum("i,bij,j->b", v, found.normal, v)
        assert torch.allclose(loss, expected, rtol=0.03, atol=1e-3)


def test_loops_and_plain_torch_agree(half_volume, disc):
    case = draw_case(5, 2, disc.n_coefficients)
    frequencies = disc.frequencies_px
    fast = pose_scores(half_volume, *case.all_poses(), frequencies, **SIZES)
    plain = pose_likelihood._plain_scores(half_volume, *case.all_poses(), frequencies, **SIZES)
    assert_close_to_peak(plain, fast, LOOP32)
    fast = pose_normals(half_volume, *case.one_pose(), frequencies, **SIZES)
    plain = pose_likelihood._plain_normals(half_volume, *case.one_pose(), frequencies, **SIZES)
    for name in ("score", "gradient", "normal"):
        a, b = getattr(plain, name), getattr(fast, name)
        assert a.dtype == b.dtype == torch.float64
        assert_close_to_peak(a, b, LOOP32)
    m = half_volume_size(RADIUS, PADDING)
    pairs = []
    for insert in (insert_at_poses, pose_likelihood._plain_insert):
        into = (torch.zeros(m, m, m // 2 + 1, dtype=torch.complex64), torch.zeros(m, m, m // 2 + 1))
        options = {**SIZES, "radius": RADIUS, "into": into}
        insert(*case.all_poses(), case.probability, frequencies, **options)
        pairs.append(into)
    for a, b in zip(*pairs, strict=True):
        assert_close_to_peak(a, b, LOOP32)


@pytest.mark.gpu
def test_gpu_gives_what_the_cpu_gives(half_volume, disc):
    case = draw_case(5, 2, disc.n_coefficients)
    volume = half_volume.cuda()
    frequencies = disc.frequencies_px.cuda()
    scores = pose_scores(volume, *(t.cuda() for t in case.all_poses()), frequencies, **SIZES)
    expected = pose_scores(half_volume, *case.all_poses(), disc.frequencies_px, **SIZES)
    assert_close_to_peak(scores.cpu(), expected)
    normals = pose_normals(volume, *(t.cuda() for t in case.one_pose()), frequencies, **SIZES)
    expected = pose_normals(half_volume, *case.one_pose(), disc.frequencies_px, **SIZES)
    for name, value in vars(expected).items():
        assert_close_to_peak(getattr(normals, name).cpu(), value)


def sums():
    m = half_volume_size(RADIUS, PADDING)
    shape = (m, m, m // 2 + 1)
    return torch.zeros(shape, dtype=torch.complex64), torch.zeros(shape)


def inserted(case, disc, into=None):
    into = sums() if into is None else into
    poses = (*case.all_poses(), case.probability, disc.frequencies_px)
    insert_at_poses(*poses, **SIZES, radius=RADIUS, into=into)
    return into


def test_insertion_is_that_of_shifted_and_weighted_slices(disc):
    case = draw_case(4, 3, disc.n_coefficients)
    case.probability[1, 2] = 0.0
    p = case.probability[..., None]
    moved = torch.stack(
        [
            shifted(s, x, disc.frequencies_px)
            for s, x in zip(case.signal, case.shifts_px, strict=True)
        ]
    )
    n = 12
    expected = insert_slices(
        (moved * p).to(torch.complex64).view(n, -1),
        (case.weight[:, None] * p).view(n, -1),
        case.rotations.view(n, 3, 3),
        disc.frequencies_px,
        radius=RADIUS,
        padding=PADDING,
    )
    found = inserted(case, disc)
    for a, b in zip(found, expected, strict=True):
        assert_close_to_peak(a, b, LOOP32)
    # sums go on
    twice = inserted(case, disc, into=found)
    assert_close_to_peak(twice[0], 2 * expected[0], LOOP32)


def test_insertion_is_the_adjoint_of_scoring(half_volume, disc):
    """The part of the score that is linear in the volume is its product with the insertion."""
    case = draw_case(3, 4, disc.n_coefficients)
    numerator, _ = inserted(case, disc)
    weightless = torch.zeros_like(case.weight)
    poses = (case.signal, weightless, case.rotations, case.shifts_px)
    scores = pose_scores(half_volume, *poses, disc.frequencies_px, **SIZES)
    left = float((scores * case.probability).sum())
    right = half_volume.to(torch.complex128).conj() * numerator
    assert left == pytest.approx(float(right.real.sum()), rel=1e-5)


@pytest.mark.parametrize("padding", [1, 2])
@pytest.mark.parametrize("box", [20, 21])
def test_frequencies_reach_the_edge_of_the_half_volume(box, padding):
    radius = (box - 1) // 2
    disc = half_disc(box, radius)
    m = half_volume_size(radius, padding)
    half = torch.randn(m, m, m // 2 + 1, dtype=torch.complex64, generator=seeded())
    case = draw_case(8, 1, disc.n_coefficients)
    # poses that take the rim along each axis, either way
    quarter = torch.pi / 2 * torch.tensor([[0, 0, 1], [0, 0, -1], [0, 1, 0], [0, -1, 0]]).double()
    case.rotations[:4, 0] = rotation_from_vector(quarter)
    case.rotations[4:, 0] = rotation_from_vector(quarter).mT @ case.rotations[:4, 0]
    slices = extract_slices(half, case.rotations[:, 0], disc.frequencies_px, padding=padding)
    sizes = {"box": box, "padding": padding}
    normals = pose_normals(half, *case.one_pose(), disc.frequencies_px, **sizes)
    cycles = case.shifts_px[:, 0] @ disc.frequencies_px.double().T / box
    cross = slices.conj() * case.signal * torch.exp(-2j * torch.pi * cycles)
    expected = (cross.real - 0.5 * case.weight * slices.abs().square()).sum(1)
    assert_close_to_peak(normals.score, expected, LOOP32)
    into = (torch.zeros_like(half), torch.zeros(half.shape))
    poses = (*case.all_poses(), case.probability, disc.frequencies_px)
    insert_at_poses(*poses, **sizes, radius=radius, into=into)
    # no corner was lost over the edge
    total = (case.weight * case.probability).sum().item()
    assert into[1].sum().item() == pytest.approx(total, rel=1e-5)


def test_frequencies_beyond_the_half_volume_are_refused(half_volume):
    disc = half_disc(BOX, RADIUS + 1)
    case = draw_case(2, 1, disc.n_coefficients)
    with pytest.raises(ValueError, match="must reach past"):
        pose_scores(half_volume, *case.all_poses(), disc.frequencies_px, **SIZES)
    with pytest.raises(ValueError, match="must reach past"):
        pose_normals(half_volume, *case.one_pose(), disc.frequencies_px, **SIZES)
    with pytest.raises(ValueError, match="must reach past"):
        inserted(case, disc)


def test_no_views_give_no_scores(half_volume, disc):
    case = draw_case(0, 3, disc.n_coefficients)
    empty = draw_case(0, 1, disc.n_coefficients)
    assert pose_scores(half_volume, *case.all_poses(), disc.frequencies_px, **SIZES).shape == (0, 3)
    normals = pose_normals(half_volume, *empty.one_pose(), disc.frequencies_px, **SIZES)
    assert normals.normal.shape == (0, 5, 5)
    numerator, denominator = inserted(case, disc)
    assert not numerator.any()
    assert not denominator.any()


def test_batch_equals_loop_and_arguments_stay(half_volume, disc):
    case = draw_case(5, 2, disc.n_coefficients)
    before = [t.clone() for t in (half_volume, *case.all_poses())]
    whole = pose_normals(half_volume, *case.one_pose(), disc.frequencies_px, **SIZES)
    pose_scores(half_volume, *case.all_poses(), disc.frequencies_px, **SIZES)
    inserted(case, disc)
    for now, then in zip((half_volume, *case.all_poses()), before, strict=True):
        assert_exact(now, then)
    for i in range(5):
        one = (t[i : i + 1] for t in case.one_pose())
        part = pose_normals(half_volume, *one, disc.frequencies_px, **SIZES)
        assert_exact(part.score, whole.score[i : i + 1])
        assert_exact(part.gradient, whole.gradient[i : i + 1])
        assert_exact(part.normal, whole.normal[i : i + 1])


def test_turn_in_the_plane_and_shift_move_the_image_as_they_should(half_volume, disc):
    """The third component turns +x towards +y; the first shift moves the view along x."""
    case = draw_case(1, 1, disc.n_coefficients)
    angle = 0.05
    turned = rotation_from_vector(torch.tensor([[0.0, 0.0, angle]]).double()) @ case.rotations[0]
    signal = extract_slices(half_volume, turned, disc.frequencies_px) * case.weight
    signal = shifted(signal, -torch.tensor([[0.2, 0.0]]).double(), disc.frequencies_px)
    poses = (signal.to(torch.complex64), case.weight, case.rotations[:, 0], torch.zeros(1, 2))
    found = pose_normals(half_volume, *poses, disc.frequencies_px, **SIZES)
    step = torch.linalg.solve(found.normal[0], found.gradient[0])
    assert float(step[2]) == pytest.approx(angle, rel=0.3)
    assert float(step[3]) == pytest.approx(0.2, rel=0.3)


def test_reference_of_these_tests_is_trilinear(half_volume, disc):
    # whole frequencies fall on voxels, where nothing is interpolated
    whole = whole_volume(half_volume)
    slices = exact_slices(half_volume, torch.eye(3)[None], disc.frequencies_px)[0]
    x, y = (disc.frequencies_px.long() * PADDING + whole.shape[0] // 2).T
    np.testing.assert_allclose(slices, whole[whole.shape[0] // 2, y, x], **F64)
