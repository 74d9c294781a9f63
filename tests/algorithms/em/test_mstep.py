"""The maximisation step: maps from weighted slices, with and without a prior."""

import pytest
import torch

from tests.algorithms.blobs import blob_map, octahedral_shell
from tests.algorithms.em.model_images import PIXEL_ANGST, blob_volume, ctf_of, in_plane
from tests.algorithms.em.model_images import astigmatic_optics as draw_optics
from tests.tolerance import F32, INTERP, assert_close_to_peak, assert_exact
from verglas.algorithms.em.mstep import Sums, radial_mean, reconstruct, symmetrise_sums
from verglas.kernels.disc import half_disc
from verglas.kernels.fourier import rfft2, rfft3
from verglas.kernels.fsc import fourier_shell_correlation
from verglas.kernels.slices import (
    extract_slices,
    half_volume_size,
    image_to_half_plane,
    insert_slices,
    volume_to_half_volume,
)
from verglas.kernels.so3 import random_rotations
from verglas.kernels.symmetry import symmetry_operators

BOX, RADIUS = 24, 10
DISC = half_disc(BOX, RADIUS)
NO_SYMMETRY = torch.eye(3, dtype=torch.float64)[None]


def inserted(half_volume, rotations, *, with_ctf=True, planar=False):
    """Sums of noise-free views of a half volume at known poses, weighted by their CTF."""
    slices = extract_slices(half_volume, rotations, DISC.frequencies_px)
    ctf = torch.ones(slices.shape)
    if with_ctf:
        optics = draw_optics(len(slices), torch.Generator().manual_seed(0))
        ctf = ctf_of(optics, DISC)
    weight = ctf.square()
    return insert_slices(
        slices * weight, weight, rotations, DISC.frequencies_px, radius=RADIUS, planar=planar
    )


def fsc_to(truth, found):
    """FSC from shell 1 to the radius, of maps or images."""
    transform = rfft3 if truth.ndim == 3 else rfft2
    pair = transform(truth[None]), transform(found[None])
    return fourier_shell_correlation(*pair, n_shells=RADIUS + 1)[0, 1:]


def assert_agree(truth, found):
    """FSC above 0.99; the outermost shell lacks samples on its far side."""
    fsc = fsc_to(truth, found)
    assert fsc[:-1].min() > 0.99, fsc
    assert fsc[-1] > 0.98, fsc


def poses(n, seed=0):
    return random_rotations(n, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("with_ctf", [False, True])
def test_true_poses_give_the_map_back(with_ctf):
    truth = blob_volume(BOX)
    half = volume_to_half_volume(truth[None], radius=RADIUS)[0]
    sums = symmetrise_sums(*inserted(half, poses(500), with_ctf=with_ctf), NO_SYMMETRY)
    found = reconstruct(*sums, radius=RADIUS, box=BOX, padding=2)
    assert_agree(truth, found)
    # on the scale of the images too, but for what lies beyond the radius and the mean
    ratio = float((truth - truth.mean()).flatten() @ found.flatten() / found.square().sum())
    assert ratio == pytest.approx(1, abs=0.03)


def test_symmetric_map_comes_back_from_few_views():
    truth = blob_map(
        octahedral_shell(n=2, radius_angst=30.0), box=BOX, pixel_size_angst=PIXEL_ANGST,
        sigma_angst=3.0,
    )  # fmt: skip
    half = volume_to_half_volume(truth[None], radius=RADIUS)[0]
    plain = inserted(half, poses(25))
    few = reconstruct(*symmetrise_sums(*plain, NO_SYMMETRY), radius=RADIUS, box=BOX, padding=2)
    sums = symmetrise_sums(*plain, symmetry_operators("O"))
    found = reconstruct(*sums, radius=RADIUS, box=BOX, padding=2)
    assert_agree(truth, found)
    assert fsc_to(truth, few).min() < 0.9


def test_turned_images_give_the_average_back():
    truth = blob_volume(BOX).sum(0)
    half = image_to_half_plane(truth[None], radius=RADIUS)[0]
    sums = symmetrise_sums(*inserted(half, in_plane(60), planar=True), NO_SYMMETRY)
    found = reconstruct(*sums, radius=RADIUS, box=BOX, padding=2, planar=True)
    assert found.shape == (BOX, BOX)
    assert_agree(truth, found)


@pytest.mark.parametrize("group", ["C2", "D2", "O", "C3", "D7", "T"])
def test_symmetrising_sums_is_inserting_every_mate(group):
    truth = blob_volume(BOX)
    half = volume_to_half_volume(truth[None], radius=RADIUS)[0]
    rotations, operators = poses(40), symmetry_operators(group)
    slices = extract_slices(half, rotations, DISC.frequencies_px)
    weight = torch.rand(slices.shape, generator=torch.Generator().manual_seed(1)) + 0.5

    def sums(*all_rotations):
        n = len(all_rotations)
        return insert_slices(
            (slices * weight).repeat(n, 1),
            weight.repeat(n, 1),
            torch.cat(all_rotations),
            DISC.frequencies_px,
            radius=RADIUS,
        )

    symmetrised = symmetrise_sums(*sums(rotations), operators)
    mates = symmetrise_sums(*sums(*[rotations @ g for g in operators]), NO_SYMMETRY)
    if group in ("C2", "D2", "O"):
        # operators permute the axes; what turns out of the half volume's corner is not used
        inside = radial_shells(symmetrised[1].shape) <= RADIUS * 2
        for got, wanted in zip(symmetrised, mates, strict=True):
            assert_close_to_peak(got[inside], wanted[inside], 1e-4)
    maps = [reconstruct(*s, radius=RADIUS, box=BOX, padding=2) for s in (symmetrised, mates)]
    assert_agree(*maps)


def radial_shells(shape):
    d, h, w = shape
    z, y = torch.arange(d) - d // 2, torch.arange(h) - h // 2
    x = torch.arange(w)
    return (z[:, None, None].square() + y[:, None].square() + x.square()).double().sqrt()


def uniform_sums(weight=4.0):
    """A smooth numerator with equal weights everywhere."""
    half = volume_to_half_volume(blob_volume(BOX)[None], radius=RADIUS)[0]
    return half * weight, torch.full(half.shape, weight)


def test_prior_of_no_noise_changes_nothing():
    sums = uniform_sums()
    plain = reconstruct(*sums, radius=RADIUS, box=BOX, padding=2)
    zero = torch.zeros(RADIUS + 1)
    same = reconstruct(*sums, radius=RADIUS, box=BOX, padding=2, inverse_snr=zero)
    torch.testing.assert_close(same, plain, **F32)


def test_prior_of_equal_signal_and_noise_halves_the_map():
    sums = uniform_sums()
    plain = reconstruct(*sums, radius=RADIUS, box=BOX, padding=2)
    one = torch.ones(RADIUS + 1)
    half = reconstruct(*sums, radius=RADIUS, box=BOX, padding=2, inverse_snr=one)
    assert_close_to_peak(half, plain / 2, 1e-5)


def test_shells_without_signal_are_left_out():
    sums = uniform_sums()
    known = torch.zeros(RADIUS + 1)
    known[6:] = torch.inf
    found = reconstruct(*sums, radius=RADIUS, box=BOX, padding=2, inverse_snr=known)
    plain = reconstruct(*sums, radius=RADIUS, box=BOX, padding=2)
    assert torch.isfinite(found).all()
    half_found = volume_to_half_volume(found[None], radius=RADIUS)[0]
    half_plain = volume_to_half_volume(plain[None], radius=RADIUS)[0]
    shell = radial_shells(half_found.shape) / 2
    beyond, within = (shell > 7.5) & (shell < 9.5), shell < 4.5
    # the gridding correction and the cut leak a little over a shell
    assert half_found[beyond].norm() < 0.12 * half_plain[beyond].norm()
    assert_close_to_peak(half_found[within], half_plain[within], 0.06)


def test_weights_of_nothing_give_finite_maps():
    m = half_volume_size(RADIUS, 2)
    shape = (m, m, m // 2 + 1)
    empty = torch.zeros(shape, dtype=torch.complex64), torch.zeros(shape)
    for inverse_snr in (None, torch.full((RADIUS + 1,), torch.inf)):
        found = reconstruct(*empty, radius=RADIUS, box=BOX, padding=2, inverse_snr=inverse_snr)
        assert_exact(found, torch.zeros(BOX, BOX, BOX))


def test_scale_of_the_weights_does_not_matter():
    half = volume_to_half_volume(blob_volume(BOX)[None], radius=RADIUS)[0]
    numerator, denominator = symmetrise_sums(*inserted(half, poses(50)), NO_SYMMETRY)
    snr = torch.linspace(0.1, 3.0, RADIUS + 1)
    first, second = (
        reconstruct(
            numerator * s, denominator * s, radius=RADIUS, box=BOX, padding=2, inverse_snr=snr
        )
        for s in (1.0, 1e-6)
    )
    assert_close_to_peak(second, first)


def test_wiener_filter_has_the_smallest_error():
    # slices with white noise: the true inverse SNR beats ten times and a tenth of it
    truth = blob_volume(BOX)
    half = volume_to_half_volume(truth[None], radius=RADIUS)[0]
    rotations = poses(400)
    slices = extract_slices(half, rotations, DISC.frequencies_px)
    generator = torch.Generator().manual_seed(2)
    noise = torch.view_as_complex(torch.randn(*slices.shape, 2, generator=generator))
    sigma = float(slices.abs().square().mean().sqrt()) * 2
    weight = torch.full(slices.shape, sigma**-2)
    sums = symmetrise_sums(
        *insert_slices(
            (slices + sigma * noise) * weight, weight, rotations, DISC.frequencies_px, radius=RADIUS
        ),
        NO_SYMMETRY,
    )
    plain = reconstruct(*sums, radius=RADIUS, box=BOX, padding=2)
    wrong = plain - truth
    true_inverse = shell_power(wrong) / shell_power(truth).clamp_min(1e-30)
    errors = {}
    for factor in (0.1, 1.0, 10.0):
        found = reconstruct(
            *sums, radius=RADIUS, box=BOX, padding=2, inverse_snr=true_inverse * factor
        )
        errors[factor] = float(shell_power(found - truth)[1:].sum())
    assert errors[1.0] < min(errors[0.1], errors[10.0])
    assert errors[1.0] < 0.8 * float(shell_power(wrong)[1:].sum())


def shell_power(volume):
    half = volume_to_half_volume(volume[None], radius=RADIUS, padding=1)[0]
    return radial_mean(half.abs().square(), radius=RADIUS, padding=1)


@pytest.mark.parametrize("planar", [False, True])
def test_radial_mean_of_a_radial_function_is_the_function(planar):
    m = half_volume_size(RADIUS, 2)
    shape = (3 if planar else m, m, m // 2 + 1)
    y = (torch.arange(m) - m // 2).square()
    z = torch.tensor([1e8, 0.0, 1e8]) if planar else y
    radius = (z[:, None, None] + y[:, None] + torch.arange(shape[2]).square()).sqrt() / 2
    found = radial_mean(torch.exp(-radius / 5), radius=RADIUS, padding=2)
    expected = torch.exp(-torch.arange(RADIUS + 1.0) / 5).double()
    # a shell is as wide as a fifth of the decay, and its voxels crowd outwards
    assert_close_to_peak(found[1:], expected[1:], 2 * INTERP)


def test_sums_survive_as_plain_arrays():
    sums = Sums.zeros(2, 3, 4, padding=2, planar=False)
    sums.numerator.normal_(generator=torch.Generator().manual_seed(0))
    sums.residual_power[1, 2] = 5.0
    arrays = sums.to_arrays()
    back = Sums.from_arrays({name: value.copy() for name, value in arrays.items()})
    for name, value in vars(sums).items():
        assert_exact(getattr(back, name), value)
        assert getattr(back, name).dtype == value.dtype
