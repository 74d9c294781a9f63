"""CTF refinement against simulated truth, with the true map as reference."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from tests.algorithms.atom_images import Scene, make_scenery
from verglas.algorithms.aberration_fit import fit_even, fit_odd, solve_ridge
from verglas.algorithms.aberrations import EVEN_TERMS, ODD_TERMS, Aberrations, coma_per_mrad
from verglas.algorithms.ctf_refine import (
    Given,
    Reference,
    astigmatism_equations,
    calibration_sums,
    fit_defocus,
    make_pairs,
    phase_sums,
)
from verglas.algorithms.magnification import magnification_equations
from verglas.algorithms.views import Optics
from verglas.kernels.disc import half_disc
from verglas.kernels.slices import volume_to_half_volume

# 48 px of 2 A, atoms within 30 A: a particle of about 60 A. SNR is that of the whole box.
NONE = Aberrations()
SCENE = Scene(box=48, pixel=2.0, n=200, radius=30.0, sigma=0.8, n_atoms=80, snr=0.1)


def _phase(aberrations, kind):
    def at(kx, ky):
        grid = np.stack(np.broadcast_arrays(kx, ky), -1)
        return getattr(aberrations, f"{kind}_phase_rad")(grid)

    return at


def _scenery(aberrations=NONE, **changes):
    changes = {"odd": _phase(aberrations, "odd"), "even": _phase(aberrations, "even")} | changes
    scene = dataclasses.replace(SCENE, magnification=aberrations.matrix, **changes)
    return make_scenery(scene)


def _reference(made, factor=1.0):
    scene = made.scene
    radius = (scene.box - 1) // 2
    volume = torch.from_numpy(made.volume).float()[None] / factor
    noise = torch.full((radius + 1,), max(made.noise_std, 1e-3) ** 2 * scene.box**2 / 2)
    return Reference(
        half_volume=volume_to_half_volume(volume, radius=radius + 3)[0],
        padding=2,
        factor=torch.full((radius + 1,), float(factor)),
        noise_power=noise.double(),
        own_part=torch.zeros(radius + 1),
    )


def _pairs(made, reference, aberrations=NONE, defocus_shift=0.0, astigmatism=(0.0, 0.0)):
    scene, images = made.scene, made.images
    values = [torch.from_numpy(np.array(v)) for v in list(vars(images).values())[2:9]]
    mean, half = (values[0] + values[1]) / 2 + defocus_shift, (values[0] - values[1]) / 2
    angle = torch.deg2rad(2 * values[2])
    cosine, sine = half * angle.cos() + astigmatism[0], half * angle.sin() + astigmatism[1]
    half = torch.hypot(cosine, sine)
    values[:3] = mean + half, mean - half, torch.rad2deg(torch.atan2(sine, cosine)) / 2
    given = Given(Optics(*values), aberrations)
    return make_pairs(
        torch.from_numpy(made.pictures),
        given=given,
        of_map=given,
        rotations_ref_to_img=torch.from_numpy(images.rotation_ref_to_img),
        shifts_angst=torch.from_numpy(images.shift_angst),
        reference=reference,
        disc=half_disc(scene.box, (scene.box - 1) // 2),
        pixel_size_angst=scene.pixel,
    )


def test_factor_and_noise_come_out_of_the_calibration():
    made = _scenery()
    reference = dataclasses.replace(_reference(made, 4.0), factor=torch.ones(24))
    sums = calibration_sums(_pairs(made, reference))
    factor = sums["cross"][4:16] / sums["power"][4:16]
    assert (factor / 4 - 1).abs().max() < 0.05
    rest = (sums["data"] - sums["cross"].square() / sums["power"].clamp_min(1e-30)) / sums["count"]
    assert rest[4:].median() / 2 == pytest.approx(float(reference.noise_power[5]), rel=0.05)


def test_defocus_of_particles_is_found_to_its_information_limit():
    made = _scenery()
    rng = np.random.default_rng(5)
    off = torch.from_numpy(rng.normal(size=200) * 300)
    pairs = _pairs(made, _reference(made), defocus_shift=off)
    fit = fit_defocus(pairs, range_angst=1500.0, spread_angst=400.0)
    error = fit.offset_angst + off
    # 1.31 of the acceptance table is for micrographs, 20 A; a particle has its own limit:
    # the Fisher information, here about 60 A at SNR 0.1 in the box and 4 A
    limit = fit.std_angst.square().mean().sqrt()
    assert limit < 120
    assert error.square().mean().sqrt() < 1.25 * limit
    assert abs(float(error.mean())) < 20
    assert (fit.gain_loglik > 0).double().mean() > 0.8


def test_a_narrow_prior_holds_the_defocus_where_it_is():
    made = _scenery(n=20, snr=0.001)
    pairs = _pairs(made, _reference(made))
    fit = fit_defocus(pairs, range_angst=1500.0, spread_angst=10.0)
    assert fit.offset_angst.abs().max() < 30


def test_astigmatism_of_a_micrograph_is_found():
    made = _scenery()
    wrong = (120.0, -90.0)
    total = np.zeros(3)
    for _ in range(3):
        pairs = _pairs(
            made,
            _reference(made),
            defocus_shift=total[0] + 60.0,
            astigmatism=tuple(total[1:] + wrong),
        )
        slope, information = (part.sum(0).numpy() for part in astigmatism_equations(pairs))
        total = total + solve_ridge(slope, information, np.full(3, 1000.0))[0]
    # 40 A of astigmatism in the acceptance table: 20 A of half the difference
    np.testing.assert_allclose(total, (-60.0, -120.0, 90.0), atol=20)


@pytest.mark.parametrize("mrad", [0.2, 3.0])
def test_beam_tilt_and_trefoil_are_found(mrad):
    per_mrad = coma_per_mrad(300.0, 2.7)
    truth = Aberrations((0.0, 2 * per_mrad * mrad, 40.0, 0.0, per_mrad * mrad, 0.0))
    made = _scenery(truth, snr=0.3)
    sums = {name: v.numpy() for name, v in phase_sums(_pairs(made, _reference(made))).items()}
    frequencies = half_disc(48, 23).frequencies_px.double().numpy() / 96
    found, spread = fit_odd(sums, frequencies, ODD_TERMS)
    row = Aberrations(tuple(found)).to_row(300.0, 2.7)
    # 200 images at SNR 0.3 and 4 A; 3 mrad turn the phase by 4.5 rad at Nyquist
    assert abs(row["beam_tilt_x_mrad"] - mrad) < 0.05
    assert abs(row["beam_tilt_y_mrad"]) < 0.05
    assert abs(found[2] - 40) < max(4 * spread[2], 4.0)
    assert abs(found[5]) < max(4 * spread[5], 4.0)


def test_cs_and_tetrafoil_are_found():
    # 150 r^4 (Cs off by 1.25 mm) has also a constant and an r^2 in Zernike's polynomials
    truth = Aberrations((), (50.0, 0.0, 75.0, 0.0, 60.0, 0.0, 25.0, 0.0, -90.0))
    made = _scenery(truth)
    sums = {name: v.numpy() for name, v in phase_sums(_pairs(made, _reference(made))).items()}
    frequencies = half_disc(48, 23).frequencies_px.double().numpy() / 96
    found, spread = fit_even(sums, frequencies, EVEN_TERMS)
    grid = frequencies[np.hypot(*frequencies.T) > 0.1]
    error = Aberrations((), tuple(found)).even_phase_rad(grid) - truth.even_phase_rad(grid)
    assert np.sqrt(np.square(error).mean()) < 0.05
    for i in (4, 6, 8):
        assert abs(found[i] - truth.even[i]) < 4 * spread[i]


def test_known_phases_leave_nothing_to_find():
    truth = Aberrations((0.0, 0.0, 40.0, 30.0, 0.0, 0.0), (0.0,) * 8 + (80.0,))
    made = _scenery(truth)
    pairs = _pairs(made, _reference(made), truth)
    sums = {name: v.numpy() for name, v in phase_sums(pairs).items()}
    frequencies = pairs.frequencies_per_angst.double().numpy()
    for fit, terms in ((fit_odd, ODD_TERMS), (fit_even, EVEN_TERMS)):
        found, spread = fit(sums, frequencies, terms)
        assert (np.abs(found) < 4.5 * spread).all()


def test_anisotropic_magnification_is_found():
    matrix = (1.01, 0.004, 0.004, 0.995)
    made = _scenery(Aberrations(magnification=matrix))
    reference = _reference(made)
    known = Aberrations()
    for _ in range(3):
        pairs = _pairs(made, reference, known)
        rotations = torch.from_numpy(made.images.rotation_ref_to_img)
        slope, information = magnification_equations(pairs, rotations, reference, known)
        step, _ = solve_ridge(slope.numpy(), information.numpy(), np.full(4, 0.05))
        known = Aberrations(magnification=tuple(np.array(known.magnification) + step))
    np.testing.assert_allclose(known.magnification, matrix, atol=1e-3)


def test_information_equals_the_curvature_of_the_likelihood():
    made = _scenery(n=40, snr=5.0)
    pairs = _pairs(made, _reference(made))
    _, information = astigmatism_equations(pairs)
    fit = fit_defocus(pairs, range_angst=500.0, spread_angst=1e4)
    ratio = (information[:, 0, 0].rsqrt() / fit.std_angst).median()
    assert ratio == pytest.approx(1.0, abs=0.1)
    assert math.isfinite(float(ratio))
