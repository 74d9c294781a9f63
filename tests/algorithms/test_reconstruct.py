"""Direct Fourier reconstruction against the torch kernels and against simulated truth."""

import numpy as np
import pytest
import torch

from tests.algorithms.atom_images import Scene, make_scenery
from verglas.algorithms.aberrations import Aberrations
from verglas.algorithms.image_tables import aberration_tables
from verglas.algorithms.reconstruct import (
    ReconstructConfig,
    add_images,
    direction_order,
    empty_sums,
    make_maps,
    stored_sums,
)
from verglas.algorithms.views import Optics as ViewOptics
from verglas.algorithms.views import make_views
from verglas.kernels.disc import half_disc
from verglas.kernels.point_groups import group_operators
from verglas.kernels.rotations import rotations_of_angles
from verglas.kernels.slices import insert_slices
from verglas.kernels.so3 import euler_to_matrix

PIXEL = 4.0
PLAIN = aberration_tables([Aberrations()], 32, 32 * PIXEL)


def _made(**settings):
    return make_scenery(Scene(**settings))


def _halves(made, config, tables=PLAIN):
    stored = {}
    for half in (1, 2):
        chosen = np.arange(half - 1, len(made.pictures), 2)
        sums = empty_sums(config)
        add_images(sums, made.pictures[chosen], made.images.take(chosen), config, tables)
        stored[half] = stored_sums(sums)
    return stored


def _fsc(a, b):
    n = len(a)
    a_ft, b_ft = np.fft.fftn(a), np.fft.fftn(b)
    axis = np.fft.fftfreq(n, 1 / n)
    k = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    shell = np.rint(k).astype(int).ravel()
    parts = ((a_ft * b_ft.conj()).real, np.abs(a_ft) ** 2, np.abs(b_ft) ** 2)
    cross, p, q = (np.bincount(shell, part.ravel()) for part in parts)
    return (cross / np.sqrt(p * q))[: n // 2]


def test_angles_give_the_matrices_of_the_kernel():
    angles = np.random.default_rng(0).uniform(-180, 180, (5, 3))
    expected = euler_to_matrix(torch.from_numpy(angles)).numpy()
    np.testing.assert_allclose(rotations_of_angles(angles), expected, atol=1e-12)


@pytest.mark.parametrize("ctf", ["full", "flipped", "none"])
def test_sums_equal_those_of_the_tensor_kernels(ctf):
    made = _made(n=4)
    config = ReconstructConfig(box=32, pixel_size_angst=PIXEL, padding=2, ctf=ctf)
    sums = empty_sums(config)
    add_images(sums, made.pictures, made.images, config, PLAIN)

    disc = half_disc(32, 15)
    values = list(vars(made.images).values())
    views = make_views(
        torch.as_tensor(made.pictures),
        optics=ViewOptics(*(torch.from_numpy(np.ascontiguousarray(v)) for v in values[2:9])),
        noise_power=torch.ones(1, 16),
        scale=torch.ones(1),
        group=torch.zeros(4, dtype=torch.long),
        disc=disc,
        pixel_size_angst=PIXEL,
        ctf_applied="full" if ctf == "none" else ctf,
    ).shifted(torch.from_numpy(made.images.shift_angst))
    transfer = torch.ones_like(views.ctf) if ctf == "none" else views.ctf
    numerator, denominator = insert_slices(
        views.data * transfer,
        transfer.square(),
        torch.from_numpy(made.images.rotation_ref_to_img),
        disc.frequencies_px,
        radius=15,
    )
    # where both have all samples, and apart from the cells about x = 0
    reach = 24
    ours, theirs = (
        np.s_[side // 2 - reach : side // 2 + reach + 1] for side in (config.side, len(numerator))
    )
    got = sums[ours, ours, 2:reach]
    expected = numerator[theirs, theirs, 2:reach].numpy()
    z, y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1, 2:reach]
    inside = x * x + y * y + z * z < reach**2
    gap = np.abs(got[..., 0] + 1j * got[..., 1] - expected)
    assert gap[inside].max() < 1e-4 * np.abs(expected[inside]).max()
    weights = denominator[theirs, theirs, 2:reach].numpy()
    assert np.abs(got[..., 2] - weights)[inside].max() < 1e-4 * weights.max()


@pytest.mark.parametrize("box", [32, 33])
def test_noise_free_images_give_the_map_back(box):
    made = _made(box=box, n=400, radius=30.0, sigma=4.0)
    config = ReconstructConfig(box=box, pixel_size_angst=PIXEL)
    maps = make_maps(_halves(made, config), config, regularise=False)
    # 400 views: Fourier space is full up to shell 14 of 16
    assert _fsc(maps.full, made.volume)[1:14].min() > 0.98
    slope = np.vdot(maps.full, made.volume) / np.vdot(made.volume, made.volume)
    assert abs(slope - 1) < 0.03
    assert maps.resolution_angst <= 2.1 * PIXEL


def test_symmetry_adds_what_the_mates_of_each_image_say():
    made = _made(n=40)
    config = ReconstructConfig(box=32, pixel_size_angst=PIXEL, symmetry="D2")
    operators = group_operators("D2")
    symmetric = make_maps(_halves(made, config), config, regularise=False)

    plain = ReconstructConfig(box=32, pixel_size_angst=PIXEL)
    sums = empty_sums(plain)
    for operator in operators:
        turned = made.images.rotation_ref_to_img @ operator
        images = type(made.images)(**{**vars(made.images), "rotation_ref_to_img": turned})
        add_images(sums, made.pictures, images, plain, PLAIN)
    expected = make_maps({1: stored_sums(sums)}, plain, regularise=False).full
    assert np.abs(symmetric.full - expected).max() < 1e-3 * np.abs(expected).max()


def test_the_fsc_shrinks_noise_in_the_full_map_only():
    made = _made(n=100, snr=0.05)
    config = ReconstructConfig(box=32, pixel_size_angst=PIXEL)
    stored = _halves(made, config)
    plain = make_maps(stored, config, regularise=False)
    shrunk = make_maps(stored, config, regularise=True)
    np.testing.assert_array_equal(plain.halves, shrunk.halves)
    errors = [np.square(maps.full - made.volume).sum() for maps in (plain, shrunk)]
    assert errors[1] < 0.7 * errors[0]


def test_nothing_beyond_the_largest_resolution_is_used():
    made = _made(n=20)
    config = ReconstructConfig(box=32, pixel_size_angst=PIXEL, max_resolution_angst=16.0)
    assert config.radius == 8
    maps = make_maps(_halves(made, config), config, regularise=False)
    power = np.abs(np.fft.fftn(maps.full)) ** 2
    axis = np.fft.fftfreq(32, 1 / 32)
    k = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    # cutting the padded box to the box leaks a little
    assert power[k > 11].sum() < 5e-3 * power[k > 0].sum()


def test_one_half_gives_a_map_and_no_fsc():
    made = _made(n=20)
    config = ReconstructConfig(box=32, pixel_size_angst=PIXEL)
    maps = make_maps({1: _halves(made, config)[1]}, config, regularise=True)
    assert len(maps.fsc) == 0
    np.testing.assert_array_equal(maps.full, maps.halves[0])


def test_neighbours_in_the_order_look_alike():
    rotations = rotations_of_angles(np.random.default_rng(1).uniform(-180, 180, (2000, 3)))
    normals = rotations[direction_order(rotations), 2]
    cosine = np.abs((normals[1:] * normals[:-1]).sum(1))
    assert np.median(np.degrees(np.arccos(np.clip(cosine, 0, 1)))) < 6


@pytest.mark.parametrize("sign", [1, -1])
def test_the_ewald_sphere_wins_back_what_a_thick_particle_loses(sign):
    # 68 A thick, 10 kV, 1.2 A pixels: 4.5 rad of defocus phase through it at Nyquist, as a
    # 600 A virus has at 300 kV and 2.3 A. No noise.
    made = _made(
        box=64, pixel=1.2, n=150, radius=34.0, sigma=0.8, n_atoms=40, voltage=10.0,
        defocus=(1500.0, 9000.0), depth_sign=sign, shift=1.0,
    )  # fmt: skip
    means = {}
    for ewald in ("flat", "positive", "negative"):
        config = ReconstructConfig(box=64, pixel_size_angst=1.2, ewald=ewald, diameter_angst=68.0)
        full = make_maps(_halves(made, config), config, regularise=False).full
        means[ewald] = _fsc(full, made.volume)[20:31].mean()
    right, wrong = ("positive", "negative") if sign > 0 else ("negative", "positive")
    assert means[right] > 0.88
    assert means[right] > means["flat"] + 0.05
    assert means["flat"] > means[wrong] + 0.2


def test_both_sheets_of_a_flat_sphere_are_the_plane():
    made = _made(n=10, voltage=300.0)
    sums = []
    for ewald in ("flat", "positive"):
        # a diameter of nothing makes the sheets alike; at 4 A pixels the sphere is flat
        config = ReconstructConfig(box=32, pixel_size_angst=PIXEL, ewald=ewald, diameter_angst=1e-3)
        sums.append(empty_sums(config))
        add_images(sums[-1], made.pictures, made.images, config, PLAIN)
    weights = sums[0][..., 2].max()
    assert np.abs(sums[1] - sums[0])[..., 2].max() < 0.05 * weights
    assert np.corrcoef(sums[0][..., 0].ravel(), sums[1][..., 0].ravel())[0, 1] > 0.999


def test_known_aberrations_are_taken_off():
    # coma of 1.5 rad and an even phase of 1.5 rad at Nyquist, magnification uneven by 3 %
    truth = Aberrations(
        odd=(0.0, 0.0, 300.0, 0.0, -250.0, 0.0),
        even=(0.0, 0.0, 30.0, 0.0, 0.0, 0.0, 900.0, 0.0, -1500.0),
        magnification=(1.02, 0.005, 0.005, 0.99),
    )
    made = _made(
        n=200, radius=30.0, magnification=truth.matrix,
        odd=lambda x, y: truth.odd_phase_rad(np.stack(np.broadcast_arrays(x, y), -1)),
        even=lambda x, y: truth.even_phase_rad(np.stack(np.broadcast_arrays(x, y), -1)),
    )  # fmt: skip
    config = ReconstructConfig(box=32, pixel_size_angst=PIXEL)
    means = []
    for group in (Aberrations(), truth):
        tables = aberration_tables([group], config.box, config.extent_angst)
        full = make_maps(_halves(made, config, tables), config, regularise=False).full
        means.append(_fsc(full, made.volume)[8:14].mean())
    assert means[0] < 0.9
    assert means[1] > 0.97
