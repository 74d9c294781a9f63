import finufft
import numpy as np
import pytest
import torch

from verglas.kernels.fourier import irfft2, rfft3
from verglas.kernels.so3 import euler_to_matrix
from verglas.simulate.atoms import Atoms, centred, radius_angst
from verglas.simulate.potential import potential_volume, prepare_projector, project_atoms
from verglas.simulate.scattering import VOLT_ANGST2, scattering_amplitude_angst

ANGLES = torch.tensor([[0.0, 0.0, 0.0], [30.0, 50.0, -70.0], [-120.0, 95.0, 10.0]])


def directly_summed(atoms, k, pixel):
    """Sum over atoms at frequencies `[m, 3]` in float64, and its random-walk size."""
    modulus = np.linalg.norm(k, axis=1)
    pairs = zip(atoms.atomic_number, atoms.b_factor_angst2, strict=True)
    amplitude = np.array(
        [scattering_amplitude_angst(z, modulus) * np.exp(-b * modulus**2 / 4) for z, b in pairs]
    )
    amplitude *= atoms.occupancy[:, None] * VOLT_ANGST2 / pixel**3
    waves = np.exp(-2j * np.pi * atoms.positions_angst @ k.T)
    return (amplitude * waves).sum(0), np.sqrt((amplitude**2).sum(0))


@pytest.mark.parametrize(("box", "pixel"), [(64, 1.5), (65, 1.5), (108, 0.9)])
def test_volume_is_the_direct_sum_within_one_percent_to_nine_tenths_of_nyquist(
    few_atoms, box, pixel
):
    volume = potential_volume(few_atoms, box_px=box, pixel_size_angst=pixel, solvent="vacuum")
    index = np.random.default_rng(1).integers(-(box // 2), box // 2, (3000, 3))
    index[:, 0] = np.abs(index[:, 0])
    index = index[np.linalg.norm(index, axis=1) < 0.45 * box]
    exact, size = directly_summed(few_atoms, index / (box * pixel), pixel)
    got = rfft3(volume[None])[0].numpy()[index[:, 2], index[:, 1], index[:, 0]]
    assert len(index) > 500
    assert (np.abs(got - exact) / size).max() < 0.01
    assert np.median(np.abs(got - exact) / np.abs(exact)) < 0.002


def test_projection_with_identity_is_the_sum_over_z(few_atoms):
    for box in (64, 65):
        volume = potential_volume(few_atoms, box_px=box, pixel_size_angst=1.5)
        projector = prepare_projector(few_atoms, box_px=box, pixel_size_angst=1.5)
        image = irfft2(project_atoms(projector, np.eye(3)[None]), shape=(box, box))[0]
        assert (image - volume.sum(0)).abs().max() < 2e-3 * image.abs().max()


def test_projections_are_central_slices_of_the_volume(few_atoms):
    # the volume in its box lacks the tails of band-limited atoms: 5e-3 at 64, 2e-3 at 160 px
    box, pixel = 96, 1.5
    rotations = euler_to_matrix(ANGLES)
    projector = prepare_projector(few_atoms, box_px=box, pixel_size_angst=pixel)
    slices_ft = project_atoms(projector, rotations.numpy()).numpy()
    volume = potential_volume(few_atoms, box_px=box, pixel_size_angst=pixel).numpy()
    points = np.mgrid[-30:31, 0:31].reshape(2, -1)
    plane = np.stack([points[1], points[0], np.zeros(points.shape[1])]) / box
    for rotation, slice_ft in zip(rotations.numpy(), slices_ft, strict=True):
        k = 2 * np.pi * (rotation.T @ plane)
        exact = finufft.nufft3d2(
            k[2].copy(), k[1].copy(), k[0].copy(), volume.astype(complex), isign=-1, eps=1e-9
        )
        error = np.abs(slice_ft[points[0], points[1]] - exact)
        assert error.max() < 0.01 * np.abs(exact).max()
        assert np.sqrt((error**2).mean() / (np.abs(exact) ** 2).mean()) < 4e-3


def test_an_atom_appears_where_the_rotation_puts_it():
    atoms = Atoms.from_arrays([[6.0, -9.0, 15.0]], [6], 40.0)
    rotation = euler_to_matrix(ANGLES[1:2])
    projector = prepare_projector(atoms, box_px=64, pixel_size_angst=1.5, solvent="vacuum")
    image_ft = project_atoms(projector, rotation.numpy())[0]
    # the phase of the lowest frequency along each axis is the position, 96 Å to a turn
    found = -torch.angle(torch.stack([image_ft[0, 1], image_ft[1, 0]])) / (2 * np.pi) * 96
    expected = rotation[0, :2] @ torch.tensor([6.0, -9.0, 15.0], dtype=torch.float64)
    torch.testing.assert_close(found.double(), expected, atol=0.01, rtol=0)


def test_total_potential_is_the_sum_of_forward_amplitudes():
    atoms = Atoms.from_arrays([[0, 0, 0], [5, 5, 5]], [6, 8], 30.0, [1.0, 0.5])
    volume = potential_volume(atoms, box_px=32, pixel_size_angst=1.0, solvent="vacuum")
    forward = (
        scattering_amplitude_angst(6, np.zeros(1))
        + scattering_amplitude_angst(8, np.zeros(1)) * 0.5
    )
    assert float(volume.sum()) == pytest.approx(float(forward[0]) * VOLT_ANGST2, rel=1e-3)


def test_resolution_limit_empties_the_shells_beyond_it(few_atoms):
    volume = potential_volume(few_atoms, box_px=64, pixel_size_angst=1.5, resolution_angst=8.0)
    volume_ft = rfft3(volume[None])[0].abs()
    axes = np.meshgrid(*[np.fft.fftfreq(64, 1.5)] * 2, np.fft.rfftfreq(64, 1.5), indexing="ij")
    k = np.sqrt(sum(axis**2 for axis in axes))
    assert volume_ft[k > 1.06 / 8].max() < 1e-5 * volume_ft.max()
    assert volume_ft[k < 0.94 / 8].mean() > 0.01 * volume_ft.max()


def test_extra_b_factor_is_the_same_as_larger_b_factors(few_atoms):
    blurred = Atoms.from_arrays(
        few_atoms.positions_angst,
        few_atoms.atomic_number,
        few_atoms.b_factor_angst2 + 50,
        few_atoms.occupancy,
    )
    grid = {"box_px": 48, "pixel_size_angst": 2.0, "solvent": "vacuum"}
    ours = potential_volume(few_atoms, b_factor_angst2=50.0, **grid)
    other = potential_volume(blurred, **grid)
    assert (ours - other).abs().max() < 2e-3 * other.abs().max()


def test_centred_atoms_have_their_mass_at_the_origin(few_atoms):
    moved = Atoms.from_arrays(few_atoms.positions_angst + 100, few_atoms.atomic_number)
    again = centred(moved)
    assert radius_angst(again) < 60
    assert np.abs(centred(again).positions_angst - again.positions_angst).max() < 1e-9
