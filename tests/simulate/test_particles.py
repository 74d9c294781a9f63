import dataclasses

import numpy as np
import polars as pl
import pytest
import torch

from verglas.kernels.ctf import evaluate_ctf
from verglas.kernels.fourier import irfft2, rfft2, rfft_grid
from verglas.kernels.slices import extract_slices, volume_to_half_volume
from verglas.kernels.so3 import euler_to_matrix
from verglas.model.columns import COLUMNS
from verglas.simulate.atoms import Atoms, radius_angst
from verglas.simulate.noise import NoiseSpectrum
from verglas.simulate.particles import (
    Optics,
    ParticleConfig,
    draw_particles,
    particle_circle,
    prepare_renderer,
    render_images,
    simulate_particles,
)
from verglas.simulate.potential import potential_volume

OPTICS = Optics(pixel_size_angst=3.0)
CONFIG = ParticleConfig(n_particles=24, box_px=64, optics=OPTICS, snr=0.1, seed=3)
CLEAN = 1e8  # an SNR at which noise is below float32 rounding of the signal's use here


def without_noise(atoms, config, table):
    """Images divided by their scale, so in volts summed over z."""
    renderer = prepare_renderer(atoms, dataclasses.replace(config, snr=CLEAN))
    return render_images(renderer, table) / renderer.signal_scale


def facing(**columns):
    values = {
        "angle_rot_deg": 0.0, "angle_tilt_deg": 0.0, "angle_psi_deg": 0.0,
        "shift_x_angst": 0.0, "shift_y_angst": 0.0, "defocus_u_angst": 0.0,
        "defocus_v_angst": 0.0, "defocus_angle_deg": 0.0, "phase_shift_deg": 90.0,
    }  # fmt: skip
    return pl.DataFrame({"item_id": [0]} | {k: [v] for k, v in (values | columns).items()})


def test_truth_table_has_declared_columns_only():
    table = draw_particles(CONFIG)
    assert set(table.columns) <= set(COLUMNS)
    assert table.height == 24
    assert (table["defocus_u_angst"] >= table["defocus_v_angst"]).all()


def test_poses_are_uniform_over_the_sphere():
    table = draw_particles(dataclasses.replace(CONFIG, n_particles=4000))
    angles = table.select("angle_rot_deg", "angle_tilt_deg", "angle_psi_deg").to_numpy()
    rotations = euler_to_matrix(torch.from_numpy(angles)).numpy()
    # entries of uniform rotations have mean 0 and mean square 1/3
    assert np.abs(rotations.mean(0)).max() < 4 * np.sqrt(1 / 3 / 4000)
    assert np.abs((rotations**2).mean(0) - 1 / 3).max() < 4 * np.sqrt(4 / 45 / 4000)


def test_a_particle_to_the_right_has_a_negative_shift():
    atom = Atoms.from_arrays([[0.0, 0.0, 0.0]], [6], 60.0)
    image = without_noise(atom, CONFIG, facing(shift_x_angst=-3.0, shift_y_angst=6.0))[0]
    assert divmod(int(image.argmax()), 64) == (32 - 2, 32 + 1)


def test_protein_is_bright_in_focus_with_a_phase_plate(shell):
    image = without_noise(shell, CONFIG, facing())[0]
    middle = particle_circle(64, radius_angst(shell) / 3.0)
    assert image[middle].mean() > 0
    assert image[middle].mean() > 10 * image[~middle].abs().mean()


def test_images_are_ctf_times_projections_of_the_volume(few_atoms):
    # no shift and little defocus: what the CTF displaces stays in the box
    config = ParticleConfig(
        4, 96, Optics(2.0), defocus_max_angst=6000, defocus_min_angst=4000, shift_angst=0.0
    )
    table = draw_particles(config).with_columns(
        angle_rot_deg=0.0, angle_tilt_deg=0.0, angle_psi_deg=0.0
    )
    images = without_noise(few_atoms, config, table)
    volume = potential_volume(few_atoms, box_px=96, pixel_size_angst=2.0)
    names = [name for name in table.columns if name.startswith("defocus")]
    defocus = {name: torch.tensor(table[name].to_list()) for name in names}
    ctf = evaluate_ctf(
        rfft_grid((96, 96), 2.0),
        **defocus,
        phase_shift_deg=torch.zeros(4),
        voltage_kv=300.0,
        spherical_aberration_mm=2.7,
        amplitude_contrast=0.1,
        b_factor_angst2=torch.full((4,), config.b_factor_angst2),
    )
    expected = irfft2(rfft2(volume.sum(0)[None]) * ctf, shape=(96, 96))
    correlation = (images * expected).sum((1, 2)) / (
        images.norm(dim=(1, 2)) * expected.norm(dim=(1, 2))
    )
    assert correlation.min() > 0.999


def test_in_plane_rotation_turns_the_image(few_atoms):
    still, turned = (
        without_noise(few_atoms, CONFIG, facing(angle_psi_deg=psi))[0] for psi in (0.0, 90.0)
    )
    # psi is passive: a point at +x in the reference goes to -y, row below the centre index
    assert torch.allclose(
        turned[1:, 1:], still.rot90(1, (0, 1)).roll(1, 0)[1:, 1:], atol=2e-3 * float(still.max())
    )


@pytest.mark.parametrize("snr", [0.03, 0.3])
def test_snr_is_signal_over_noise_variance_in_the_circle(shell, snr):
    config = dataclasses.replace(CONFIG, n_particles=60, snr=snr)
    table = draw_particles(config)
    renderer = prepare_renderer(shell, config)
    images = render_images(renderer, table)
    signal = without_noise(shell, config, table) * renderer.signal_scale
    inside = particle_circle(64, radius_angst(shell) / 3.0)
    noise = (images - signal)[:, inside]
    measured = float(signal[:, inside].var(1).mean() / noise.var(1).mean())
    assert measured == pytest.approx(snr, rel=0.06)
    assert float(noise.var()) == pytest.approx(1, abs=4 * np.sqrt(2 / noise.numel()))


def test_coloured_noise_is_what_is_left_without_signal():
    config = dataclasses.replace(CONFIG, noise=NoiseSpectrum(0.7), n_particles=100, snr=0.0)
    atoms = Atoms.from_arrays([[0, 0, 0]], [6])
    power = (rfft2(simulate_images(atoms, config)).abs() ** 2).mean(0)
    assert power[0, 1] > 3 * power[0, 30]


def simulate_images(atoms, config):
    return torch.from_numpy(simulate_particles(atoms, config).images)


def test_noise_only_set_has_no_signal(few_atoms):
    config = dataclasses.replace(CONFIG, snr=0.0, n_particles=200)
    images = simulate_images(few_atoms, config)
    assert float(images.mean(0).std()) == pytest.approx(1 / np.sqrt(200), rel=0.1)


def test_equal_seed_gives_equal_images_and_another_seed_others(few_atoms):
    first, again = (simulate_particles(few_atoms, CONFIG) for _ in range(2))
    np.testing.assert_array_equal(first.images, again.images)
    assert first.table.equals(again.table)
    other = simulate_particles(few_atoms, dataclasses.replace(CONFIG, seed=4))
    assert np.abs(other.images - first.images).max() > 1


def test_chunks_of_a_set_equal_the_whole(few_atoms):
    whole = simulate_particles(few_atoms, CONFIG)
    renderer = prepare_renderer(few_atoms, CONFIG)
    part = render_images(renderer, whole.table[5:12]).numpy()
    np.testing.assert_allclose(part, whole.images[5:12], atol=1e-5)


def test_given_poses_are_used(few_atoms):
    table = draw_particles(CONFIG).head(3).with_columns(shift_x_angst=0.0, shift_y_angst=0.0)
    made = simulate_particles(few_atoms, CONFIG, table)
    assert made.images.shape == (3, 64, 64)
    assert made.table.equals(table)


def test_far_defocus_does_not_come_round_the_box(shell):
    # at 4 µm information moves by 130 Å: the wide box must hold it
    config = dataclasses.replace(CONFIG, defocus_max_angst=40000.0, box_px=48)
    table = facing(defocus_u_angst=40000.0, defocus_v_angst=40000.0, phase_shift_deg=0.0)
    small = without_noise(shell, config, table)[0]
    large = without_noise(shell, dataclasses.replace(config, box_px=192), table)[0]
    window = large[96 - 24 : 96 + 24, 96 - 24 : 96 + 24]
    assert (small - window).std() < 0.012 * window.std()


def test_empty_set_is_empty(few_atoms):
    made = simulate_particles(few_atoms, dataclasses.replace(CONFIG, n_particles=0))
    assert made.images.shape == (0, 64, 64)


def test_bad_configurations_are_refused():
    for change in ({"snr": -1.0}, {"box_px": 4}, {"defocus_min_angst": 3e4}):
        with pytest.raises(ValueError, match=r"snr|cannot|defocus"):
            dataclasses.replace(CONFIG, **change)


def test_images_agree_with_slices_of_the_true_volume(shell):
    # the model of refinement: a slice of the volume, shift and CTF on the particle's own box
    config = dataclasses.replace(
        CONFIG, n_particles=6, box_px=96, defocus_min_angst=5000, defocus_max_angst=8000
    )
    table = draw_particles(config)
    images_ft = rfft2(without_noise(shell, config, table))
    volume = potential_volume(shell, box_px=96, pixel_size_angst=3.0)
    radius = 40
    frequencies = torch.cartesian_prod(torch.arange(-28, 29), torch.arange(0, 28))[:, [1, 0]]
    angles = table.select("angle_rot_deg", "angle_tilt_deg", "angle_psi_deg").to_numpy()
    slices_ft = extract_slices(
        volume_to_half_volume(volume[None], radius=radius)[0],
        euler_to_matrix(torch.from_numpy(angles.copy())),
        frequencies.float(),
    )
    k = frequencies / (96 * 3.0)
    names = ("defocus_u_angst", "defocus_v_angst", "defocus_angle_deg", "phase_shift_deg")
    ctf = evaluate_ctf(
        k,
        **{name: torch.tensor(table[name].to_list()) for name in names},
        voltage_kv=300.0,
        spherical_aberration_mm=2.7,
        amplitude_contrast=0.1,
        b_factor_angst2=torch.full((6,), config.b_factor_angst2),
    )
    shifts = torch.tensor(table.select("shift_x_angst", "shift_y_angst").rows())
    moved_back = torch.exp(2j * np.pi * (shifts @ k.T))
    expected = slices_ft * ctf * moved_back
    got = images_ft[:, frequencies[:, 1], frequencies[:, 0]]
    assert (got - expected).abs().norm() < 0.03 * expected.abs().norm()
