"""Central slices: against exact transforms, and against their own adjoint."""

import finufft
import numpy as np
import pytest
import torch
from torch_fourier_slice import project_3d_to_2d

from tests.tolerance import INTERP, assert_close_to_peak, assert_exact
from verglas.kernels.disc import gather_disc, half_disc, scatter_disc
from verglas.kernels.fourier import irfft2, rfft2
from verglas.kernels.slices import (
    complete_hermitian_plane,
    extract_slices,
    half_plane_to_image,
    half_volume_size,
    half_volume_to_volume,
    image_to_half_plane,
    insert_slices,
    symmetrise_half_volume,
    volume_to_half_volume,
)
from verglas.kernels.so3 import euler_to_matrix, random_rotations
from verglas.kernels.symmetry import symmetrise_volume, symmetry_operators


def blobs(box, *, n_axes=3, seed=0):
    """Gaussians of 1.5 voxels in the inner third, `[1, ...]`."""
    rng = np.random.default_rng(seed)
    axis = np.arange(box) - box // 2
    grids = np.meshgrid(*[axis] * n_axes, indexing="ij")
    out = np.zeros((box,) * n_axes)
    for place in rng.uniform(-box / 7, box / 7, (5, n_axes)):
        square = sum((g - p) ** 2 for g, p in zip(grids, place, strict=True))
        out += rng.uniform(0.5, 1.5) * np.exp(-square / (2 * 1.5**2))
    return torch.from_numpy(out).float()[None]


def window(box, n_axes, padding=2):
    """What linear interpolation does in real space, which both directions divide by."""
    one = torch.sinc((torch.arange(box) - box // 2) / (box * padding)).square()
    out = one
    for _ in range(n_axes - 1):
        out = out[..., None] * one
    return out


def poses(n, seed=0):
    return random_rotations(n, generator=torch.Generator().manual_seed(seed))


def noise(shape, seed=0):
    return torch.randn(shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("box", [32, 33])
@pytest.mark.parametrize("n", [1, 5])
def test_slices_equal_the_exact_transform_at_the_rotated_frequencies(box, n):
    volume, rotations = blobs(box), poses(n)
    disc = half_disc(box, box // 2 - 2)
    half = volume_to_half_volume(volume, radius=disc.radius)[0]
    slices = extract_slices(half, rotations, disc.frequencies_px)
    assert slices.shape == (n, disc.n_coefficients)
    assert slices.dtype == torch.complex64
    plane = torch.nn.functional.pad(disc.frequencies_px.double(), (0, 1))
    points = (plane @ rotations).reshape(-1, 3).numpy() * 2 * np.pi / box
    # finufft counts from -box // 2, as n // 2 does only for even boxes
    centred = np.zeros((box + box % 2,) * 3, dtype=complex)
    first = (box + box % 2) // 2 - box // 2
    keep = slice(first, first + box)
    centred[keep, keep, keep] = volume[0].numpy()
    z, y, x = (np.ascontiguousarray(points[:, i]) for i in (2, 1, 0))
    exact = finufft.nufft3d2(z, y, x, centred, isign=-1, eps=1e-10)
    # linear interpolation in half Fourier pixels, with its mean effect divided out
    assert_close_to_peak(slices.reshape(-1), exact, 2 * INTERP)


def test_projections_equal_torch_fourier_slice():
    box = 32
    volume, rotations = blobs(box), poses(3)
    disc = half_disc(box, box // 2 - 1)
    half = volume_to_half_volume(volume, radius=disc.radius)[0]
    slices = extract_slices(half, rotations, disc.frequencies_px)
    images = irfft2(scatter_disc(slices, disc), shape=(box, box))
    expected = project_3d_to_2d(volume[0], rotations.mT.float())
    expected = expected - expected.mean((1, 2), keepdim=True)
    # both interpolate linearly; theirs does not correct for it
    assert_close_to_peak(images, expected, 4 * INTERP)


def test_loops_and_plain_torch_agree():
    half = volume_to_half_volume(blobs(24), radius=10)[0]
    disc, rotations = half_disc(24, 10), poses(4)
    fast = extract_slices(half, rotations, disc.frequencies_px)
    plain = extract_slices(half.clone().requires_grad_(), rotations, disc.frequencies_px)
    assert_close_to_peak(plain.detach(), fast)


def test_slices_have_the_gradient_that_insertion_gives():
    disc, rotations = half_disc(16, 6), poses(3)
    half = volume_to_half_volume(blobs(16), radius=6)[0].requires_grad_()
    target = noise((3, disc.n_coefficients))
    extract_slices(half, rotations, disc.frequencies_px).mul(target.conj()).real.sum().backward()
    numerator, _ = insert_slices(
        target, torch.ones(target.shape), rotations, disc.frequencies_px, radius=6
    )
    assert_close_to_peak(half.grad, numerator)


@pytest.mark.parametrize("padding", [1, 2])
def test_insertion_is_the_adjoint_of_extraction(padding):
    disc, rotations = half_disc(20, 8), poses(7)
    m = half_volume_size(8, padding)
    half, slices = noise((m, m, m // 2 + 1)), noise((7, disc.n_coefficients), seed=1)
    forward = extract_slices(half, rotations, disc.frequencies_px, padding=padding)
    backward, _ = insert_slices(
        slices,
        torch.ones(slices.shape),
        rotations,
        disc.frequencies_px,
        radius=8,
        padding=padding,
    )
    left = (forward.to(torch.complex128).conj() * slices).real.sum()
    right = (half.to(torch.complex128).conj() * backward).real.sum()
    assert left.item() == pytest.approx(right.item(), rel=1e-5)


def test_inserted_weights_add_up_and_sums_may_go_on():
    disc, rotations = half_disc(20, 8), poses(6)
    slices, weights = noise((6, disc.n_coefficients)), torch.rand(6, disc.n_coefficients)
    whole = insert_slices(slices, weights, rotations, disc.frequencies_px, radius=8)
    # the eight corners of a sample share its weight
    assert whole[1].sum().item() == pytest.approx(weights.sum().item(), rel=1e-5)
    parts = insert_slices(slices[:2], weights[:2], rotations[:2], disc.frequencies_px, radius=8)
    parts = insert_slices(
        slices[2:], weights[2:], rotations[2:], disc.frequencies_px, radius=8, into=parts
    )
    for actual, expected in zip(parts, whole, strict=True):
        assert_close_to_peak(actual, expected)


@pytest.mark.parametrize("box", [24, 25])
@pytest.mark.parametrize("n_batch", [1, 2])
def test_half_volumes_give_the_volume_back_twice_corrected(box, n_batch):
    volumes = torch.cat([blobs(box, seed=i) for i in range(n_batch)])
    before = volumes.clone()
    half = volume_to_half_volume(volumes, radius=box // 2)
    assert half.shape[1] == half_volume_size(box // 2, 2)
    # what lies beyond the radius is lost; a Gaussian of 1.5 voxels has nothing there
    restored = half_volume_to_volume(half, box=box) * window(box, 3).square()
    assert_close_to_peak(restored, volumes, 1e-4)
    assert_exact(volumes, before)


@pytest.mark.parametrize("box", [24, 25])
def test_half_planes_give_the_image_back_twice_corrected(box):
    images = torch.cat([blobs(box, n_axes=2, seed=i) for i in range(2)])
    half = image_to_half_plane(images, radius=box // 2)
    assert half.shape[1] == 3
    restored = half_plane_to_image(half, box=box) * window(box, 2).square()
    assert_close_to_peak(restored, images, 1e-4)


def test_slice_of_a_half_plane_is_the_image_turned_by_psi():
    box = 32
    image = blobs(box, n_axes=2)
    disc = half_disc(box, box // 2 - 1)
    half = image_to_half_plane(image, radius=disc.radius)[0]
    quarter = euler_to_matrix(torch.tensor([[0.0, 0.0, 90.0]]))
    turned = irfft2(
        scatter_disc(extract_slices(half, quarter, disc.frequencies_px), disc), shape=(box, box)
    )
    # passive psi = 90: a point at (x, y) appears at (y, -x)
    expected = torch.rot90(image[:, 1:, 1:], 1, (1, 2))
    expected = torch.nn.functional.pad(expected, (1, 0, 1, 0))
    expected = expected - expected.mean()
    # at whole grid points linear interpolation needs no correction, so it overshoots by 2 %
    assert_close_to_peak(turned, expected, 3 * INTERP)


def test_planar_insertion_averages_turned_images():
    box = 32
    disc = half_disc(box, box // 2 - 1)
    angles = torch.linspace(0, 350, 36)
    rotations = euler_to_matrix(torch.stack([0 * angles, 0 * angles, angles], dim=-1))
    half = image_to_half_plane(blobs(box, n_axes=2), radius=disc.radius)[0]
    slices = extract_slices(half, rotations, disc.frequencies_px)
    numerator, denominator = insert_slices(
        slices,
        torch.ones(slices.shape),
        rotations,
        disc.frequencies_px,
        radius=disc.radius,
        planar=True,
    )
    numerator, denominator = (complete_hermitian_plane(t) for t in (numerator, denominator))
    quotient = numerator / denominator.clamp(min=1e-3)
    image = half_plane_to_image(quotient[None], box=box)
    expected = blobs(box, n_axes=2)
    expected = expected - expected.mean()
    # the origin is not in the list, and linear interpolation is used twice
    assert_close_to_peak(image - image.mean(), expected, 6 * INTERP)


def test_completed_plane_is_hermitian_and_keeps_the_rest():
    half = noise((7, 7, 4))
    whole = complete_hermitian_plane(half)
    assert_exact(whole[..., 1:], half[..., 1:])
    assert_exact(whole[..., 0], whole[..., 0].flip(0, 1).conj().resolve_conj())


@pytest.mark.parametrize("group", ["C1", "C4", "D2", "O", "C3", "I2"])
def test_symmetrised_half_volume_is_that_of_the_symmetrised_volume(group):
    box, operators = 24, symmetry_operators(group)
    half = volume_to_half_volume(blobs(box), radius=box // 2 - 2)[0]
    summed = symmetrise_half_volume(half, operators)
    symmetric = half_volume_to_volume(summed[None] / len(operators), box=box)
    corrected = symmetrise_volume(blobs(box) / window(box, 3), operators, oversampling=4)
    # operators that do not permute the axes interpolate once more: 2.5 % at these distances
    assert_close_to_peak(symmetric, corrected / window(box, 3), 3 * INTERP)


def test_octahedral_half_volume_is_exactly_invariant():
    half = volume_to_half_volume(blobs(16), radius=6)[0]
    once = symmetrise_half_volume(half, symmetry_operators("O"))
    twice = symmetrise_half_volume(once, symmetry_operators("O"))
    assert_close_to_peak(twice, 24 * once)


def test_frequencies_beyond_the_half_volume_are_refused():
    half = volume_to_half_volume(blobs(16), radius=4)[0]
    with pytest.raises(ValueError, match="must reach past"):
        extract_slices(half, poses(1), half_disc(16, 7).frequencies_px)


def test_gathered_image_coefficients_match_the_slice_of_the_same_projection():
    """Extraction and image transforms share centre, sign and scale."""
    box = 32
    volume = blobs(box)
    disc = half_disc(box, 12)
    half = volume_to_half_volume(volume, radius=12)[0]
    slices = extract_slices(half, torch.eye(3)[None], disc.frequencies_px)
    images = gather_disc(rfft2(volume.sum(1)), disc)
    assert_close_to_peak(slices, images, 3 * INTERP)
