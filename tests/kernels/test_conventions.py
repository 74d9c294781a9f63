"""The numbered rules of docs/conventions.md, section 2, one test or more for each.

Rule 9 (tilt axis, hands) has no kernel yet; rows of TIFF and EER (rule 3) are tested in `io`.
The objects are sums of Gaussians, whose projections and transforms have closed forms.
"""

import math

import numpy as np
import pytest
import torch

from tests.tolerance import INTERP, assert_close_to_peak, assert_exact
from verglas.kernels.ctf import ctf_phase, evaluate_ctf
from verglas.kernels.disc import gather_disc, half_disc, scatter_disc
from verglas.kernels.fourier import (
    fourier_resize2,
    fourier_shift,
    irfft2,
    rfft2,
    rfft3,
    rfft_grid,
)
from verglas.kernels.slices import (
    extract_slices,
    half_volume_to_volume,
    insert_slices,
    volume_to_half_volume,
)
from verglas.kernels.so3 import euler_to_matrix, random_rotations, rotation_from_vector
from verglas.kernels.symmetry import symmetrise_volume, symmetry_operators

BOX = 48
SIGMA = 1.7
# linear interpolation after division by sinc^2 errs by about (pi r / (box padding))^2 / 3,
# here 0.6 % for the farthest blob
PADDING = 3
# x, y, z of an object without any symmetry, in voxels from the centre
BLOBS = np.array([[6.3, 1.4, -2.8], [-2.1, 5.2, 3.5], [0.0, -5.6, 5.6], [2.8, 2.8, 0.4]])
WEIGHTS = np.array([1.0, 1.5, 0.7, 1.2])


def draw(points, *, box=BOX):
    """Gaussians at points given in x, y(, z) from the centre, as an array [(z,) y, x]."""
    n_axes = points.shape[1]
    axis = np.arange(box) - box // 2
    grids = np.meshgrid(*[axis] * n_axes, indexing="ij")[::-1]
    image = np.zeros((box,) * n_axes)
    for point, weight in zip(points, WEIGHTS, strict=False):
        square = sum((g - p) ** 2 for g, p in zip(grids, point, strict=True))
        image += weight * np.exp(-square / (2 * SIGMA**2))
    return torch.from_numpy(image).float()[None]


def project_exactly(rotation_ref_to_img, *, box=BOX):
    """Rule 5 in real space: every blob appears at the first two rows times its place."""
    places = BLOBS @ np.asarray(rotation_ref_to_img)[:2].T
    return draw(places, box=box) * SIGMA * math.sqrt(2 * math.pi)


def project(volume, rotations):
    """Projections by central slices."""
    box = volume.shape[-1]
    disc = half_disc(box, (box - 1) // 2 - 1)
    half = volume_to_half_volume(volume, radius=disc.radius + 1, padding=PADDING)[0]
    slices_ft = extract_slices(half, rotations, disc.frequencies_px, padding=PADDING)
    images = irfft2(scatter_disc(slices_ft, disc), shape=(box, box))
    # the list has no origin: the mean grey value is put back
    return images + volume.sum() / box**2


def rotated_blob_volume(rotation):
    """The object with every blob moved to `rotation @ r`."""
    return draw(BLOBS @ np.asarray(rotation).T)


def test_rule_1_arrays_are_zyx_and_shifts_are_xyz():
    volume = torch.zeros(1, 6, 8, 10)
    volume[0, 1, 2, 3] = 1
    shift = torch.tensor([[4.0, 3.0, 2.0]])
    moved_ft = fourier_shift(rfft3(volume), shift, shape=(6, 8, 10), pixel_size_angst=1.0)
    expected = torch.zeros_like(volume)
    expected[0, 1 + 2, 2 + 3, 3 + 4] = 1
    assert_close_to_peak(moved_ft, rfft3(expected))


def test_rule_1_frequency_grids_hold_x_first_and_x_along_the_last_axis():
    grid = rfft_grid((4, 6, 8), 1.0)
    assert_exact(grid[0, 0, 1], torch.tensor([1 / 8, 0, 0]))
    assert_exact(grid[0, 1, 0], torch.tensor([0, 1 / 6, 0]))
    assert_exact(grid[1, 0, 0], torch.tensor([0, 0, 1 / 4]))


@pytest.mark.parametrize("n", [8, 9])
def test_rule_2_the_centre_is_pixel_n_over_two(n):
    point = torch.zeros(1, n, n)
    point[0, n // 2, n // 2] = 1
    assert_close_to_peak(rfft2(point), torch.ones(1, n, n // 2 + 1))


@pytest.mark.parametrize("n", [8, 9])
def test_rule_2_rotations_turn_about_the_centre(n):
    volume = torch.zeros(1, n, n, n)
    c = n // 2
    volume[0, c, c, c] = 1
    volume[0, c, c, c + 2] = 1
    turned = symmetrise_volume(volume, symmetry_operators("C4"))[0]
    assert turned[c, c, c] == 1
    for y, x in ((0, 2), (2, 0), (0, -2), (-2, 0)):
        assert turned[c, c + y, c + x].item() == pytest.approx(0.25)


@pytest.mark.parametrize(("n", "m"), [(24, 48), (48, 24), (25, 50), (51, 24), (48, 31)])
def test_rule_2_changing_the_pixel_size_keeps_places_in_angstrom(n, m):
    pixel = 96 / n
    place = np.array([[5.0, -7.0]])

    def spot(n, pixel):
        axis = (np.arange(n) - n // 2) * pixel
        square = (axis - place[0, 0]) ** 2 + (axis[:, None] - place[0, 1]) ** 2
        return torch.from_numpy(np.exp(-square / (2 * 7.0**2))).float()[None]

    resized = fourier_resize2(spot(n, pixel), shape=(m, m))
    assert_close_to_peak(resized, spot(m, 96 / m), INTERP)


def test_rule_3_positive_angles_turn_x_towards_y():
    quarter = rotation_from_vector(torch.tensor([[0.0, 0.0, math.pi / 2]]).double())[0]
    x, y = torch.eye(3).double()[:2]
    torch.testing.assert_close(quarter @ x, y)
    assert torch.linalg.det(quarter).item() == pytest.approx(1)


def test_rule_3_x_is_columns_and_y_is_rows():
    image = draw(np.array([[10.0, 3.0]]))[0]
    row, column = np.unravel_index(int(image.argmax()), image.shape)
    assert (column - BOX // 2, row - BOX // 2) == (10, 3)


def test_rule_4_euler_matrix_is_a_product_of_passive_turns():
    def passive_z(a):
        return np.array([[np.cos(a), np.sin(a), 0], [-np.sin(a), np.cos(a), 0], [0, 0, 1]])

    def passive_y(a):
        return np.array([[np.cos(a), 0, -np.sin(a)], [0, 1, 0], [np.sin(a), 0, np.cos(a)]])

    rot, tilt, psi = np.radians([25.0, 70.0, -140.0])
    matrix = euler_to_matrix(torch.tensor([[25.0, 70.0, -140.0]], dtype=torch.float64))[0]
    np.testing.assert_allclose(matrix, passive_z(psi) @ passive_y(tilt) @ passive_z(rot))
    view = [np.sin(tilt) * np.cos(rot), np.sin(tilt) * np.sin(rot), np.cos(tilt)]
    np.testing.assert_allclose(matrix[2], view)


def test_rule_5_projection_without_rotation_is_the_sum_over_z():
    volume = draw(BLOBS)
    assert_close_to_peak(project(volume, torch.eye(3)[None]), volume.sum(1), INTERP)


def test_rule_5_points_appear_at_the_rotated_place():
    rotations = random_rotations(4, generator=torch.Generator().manual_seed(0))
    images = project(draw(BLOBS), rotations)
    for image, rotation in zip(images, rotations, strict=True):
        assert_close_to_peak(image[None], project_exactly(rotation), INTERP)


@pytest.mark.parametrize("box", [32, 33])
def test_rule_5_holds_for_even_and_odd_boxes(box):
    rotations = random_rotations(2, generator=torch.Generator().manual_seed(1))
    blobs = torch.cat([project_exactly(r, box=box) for r in rotations])
    assert_close_to_peak(project(draw(BLOBS, box=box), rotations), blobs, 1.5 * INTERP)


def test_rule_5_projection_of_the_turned_object_is_the_projection_at_that_pose():
    rotation = random_rotations(1, generator=torch.Generator().manual_seed(2))
    turned = rotated_blob_volume(rotation[0])
    assert_close_to_peak(turned.sum(1), project(draw(BLOBS), rotation), INTERP)


def test_rule_5_inserted_slices_give_the_object_back():
    disc = half_disc(BOX, BOX // 2 - 1)
    rotations = random_rotations(800, generator=torch.Generator().manual_seed(3))
    images = torch.cat([project_exactly(r) for r in rotations])
    slices_ft = gather_disc(rfft2(images), disc)
    numerator, denominator = insert_slices(
        slices_ft,
        torch.ones(slices_ft.shape),
        rotations,
        disc.frequencies_px,
        radius=disc.radius,
    )
    half = numerator / denominator.clamp(min=1e-3 * denominator.mean())
    volume = half_volume_to_volume(half[None], box=BOX)[0]
    expected = draw(BLOBS)[0]
    match = torch.corrcoef(torch.stack([volume.flatten(), expected.flatten()]))[0, 1]
    assert match > 0.98
    # the mirror image is another object, so the hand is right
    mirrored = torch.corrcoef(torch.stack([volume.flip(0).flatten(), expected.flatten()]))[0, 1]
    assert mirrored < 0.9


def test_rule_6_stored_shift_moves_the_particle_onto_the_reference():
    pixel = 1.5
    # a particle 3 Å to the right of the centre has shift_x_angst = -3
    particle = draw(np.array([[2.0, 0.0]]))
    stored = torch.tensor([[-3.0, 0.0]])
    moved = irfft2(
        fourier_shift(rfft2(particle), stored, shape=(BOX, BOX), pixel_size_angst=pixel),
        shape=(BOX, BOX),
    )
    assert_close_to_peak(moved, draw(np.array([[0.0, 0.0]])))


def test_rule_6_applying_a_shift_multiplies_by_the_stated_phase():
    image = draw(np.array([[3.0, -2.0]]))
    shift = torch.tensor([[1.7, 0.4]])
    k = rfft_grid((BOX, BOX), 1.5, dtype=torch.float64)
    expected = rfft2(image) * torch.exp(-2j * math.pi * (k @ shift[0].double()))
    moved = fourier_shift(rfft2(image), shift, shape=(BOX, BOX), pixel_size_angst=1.5)
    assert_close_to_peak(moved, expected)


def optics(defocus_u, defocus_v, angle_deg, phase_shift_deg=0.0):
    return {
        "defocus_u_angst": torch.tensor([defocus_u]),
        "defocus_v_angst": torch.tensor([defocus_v]),
        "defocus_angle_deg": torch.tensor([angle_deg]),
        "phase_shift_deg": torch.tensor([phase_shift_deg]),
        "voltage_kv": 300.0,
        "spherical_aberration_mm": 2.7,
        "amplitude_contrast": 0.1,
    }


def test_rule_7_ctf_is_the_stated_formula():
    k, wavelength = 0.12, 0.0196875
    chi = math.pi * wavelength * 15000 * k**2 - math.pi / 2 * 2.7e7 * wavelength**3 * k**4
    expected = math.sin(chi + math.radians(40) + math.asin(0.1))
    point = torch.tensor([[k, 0.0]], dtype=torch.float64)
    ctf = evaluate_ctf(point, **optics(15000.0, 15000.0, 0.0, 40.0))
    assert ctf.item() == pytest.approx(expected, abs=1e-4)


def test_rule_7_origin_is_amplitude_contrast_and_first_lobe_positive():
    line = torch.stack([torch.linspace(0, 0.05, 30), torch.zeros(30)], dim=-1)
    ctf = evaluate_ctf(line, **optics(15000.0, 15000.0, 0.0))[0]
    assert ctf[0].item() == pytest.approx(0.1, abs=1e-6)
    assert (ctf > 0).all()


def test_rule_7_defocus_angle_runs_from_x_to_the_u_axis_towards_y():
    azimuth = torch.deg2rad(torch.arange(0, 180, 1.0))
    circle = 0.1 * torch.stack([azimuth.cos(), azimuth.sin()], dim=-1)
    phase = ctf_phase(circle, **optics(16000.0, 14000.0, 30.0))[0]
    assert int(phase.argmax()) == 30
    assert int(phase.argmin()) == 120


def test_rule_8_bright_protein_stays_bright_in_an_underfocused_particle():
    particle = draw(np.array([[0.0, 0.0]]))
    grid = rfft_grid((BOX, BOX), 2.0)
    seen = irfft2(rfft2(particle) * evaluate_ctf(grid, **optics(2e4, 2e4, 0.0)), shape=(BOX, BOX))
    assert seen[0, BOX // 2, BOX // 2] > 0
    assert seen.abs().argmax() == seen.argmax()


@pytest.mark.parametrize(
    ("group", "order"), [("C5", 5), ("D4", 8), ("T", 12), ("O", 24), ("I", 60)]
)
def test_rule_10_groups_have_their_order_and_close(group, order):
    operators = symmetry_operators(group)
    assert len(operators) == order
    products = (operators[:, None] @ operators).reshape(-1, 1, 3, 3)
    assert (products - operators).abs().amax((-1, -2)).amin(1).max() < 1e-12


@pytest.mark.parametrize("group", ["C3", "D2", "O"])
def test_rule_10_mates_of_a_pose_give_the_same_projection(group):
    operators = symmetry_operators(group)
    places = np.concatenate([BLOBS[:1] @ g.T for g in operators.numpy()])
    volume = sum(draw(place[None]) for place in places)
    pose = random_rotations(1, generator=torch.Generator().manual_seed(4))
    images = project(volume, pose @ operators)
    assert_close_to_peak(images, images[:1].expand_as(images), INTERP)
