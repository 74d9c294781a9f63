"""Views: transforms, CTF, noise and shifts as the likelihood takes them."""

import dataclasses

import pytest
import torch

from tests.algorithms.em.model_images import PIXEL_ANGST, astigmatic_optics
from tests.tolerance import CTF32, F32, assert_close_to_peak, assert_exact
from verglas.algorithms.views import Optics, make_views, shift_phases
from verglas.kernels.ctf import evaluate_ctf
from verglas.kernels.disc import gather_disc, half_disc
from verglas.kernels.fourier import fourier_shift, rfft2, rfft_grid
from verglas.kernels.slices import extract_slices, volume_to_half_volume
from verglas.kernels.so3 import euler_to_matrix
from verglas.simulate.atoms import Atoms
from verglas.simulate.particles import Optics as MicroscopeOptics
from verglas.simulate.particles import ParticleConfig, prepare_renderer, render_images
from verglas.simulate.particles import draw_particles as draw_table
from verglas.simulate.potential import potential_volume


def some_images(n=5, box=17, seed=0):
    return torch.randn(n, box, box, generator=torch.Generator().manual_seed(seed))


def some_views(images, *, radius=7, ctf_applied="full", scale=(1.0, 2.0)):
    n, box = images.shape[:2]
    return make_views(
        images,
        optics=astigmatic_optics(n, torch.Generator().manual_seed(1)),
        noise_power=torch.tensor([[1.0], [4.0]]) * torch.linspace(2, 1, 12),
        scale=torch.tensor(scale),
        group=torch.arange(n) % 2,
        disc=half_disc(box, radius),
        pixel_size_angst=PIXEL_ANGST,
        ctf_applied=ctf_applied,
    )


@pytest.mark.parametrize("box", [16, 17])
def test_views_hold_transform_ctf_and_noise_of_each_coefficient(box):
    images = some_images(box=box)
    views = some_views(images)
    disc = views.disc
    assert len(views) == 5
    assert_exact(views.data, gather_disc(rfft2(images), disc))
    optics = astigmatic_optics(5, torch.Generator().manual_seed(1))
    full = evaluate_ctf(rfft_grid((box, box), PIXEL_ANGST), **vars(optics))
    scale = torch.tensor([1.0, 2.0])[views.group][:, None]
    torch.testing.assert_close(views.ctf, gather_disc(full, disc) * scale, **CTF32)
    level = torch.tensor([1.0, 4.0])[views.group][:, None] * torch.linspace(2, 1, 12)[disc.shell]
    torch.testing.assert_close(views.inverse_noise, 1 / level, **F32)


def test_whitened_views_are_weighted_by_ctf_over_noise():
    views = some_views(some_images())
    signal, weight = views.whitened()
    torch.testing.assert_close(signal, views.ctf * views.data * views.inverse_noise, **F32)
    torch.testing.assert_close(weight, views.ctf.square() * views.inverse_noise, **F32)


def test_phase_flipped_images_have_a_positive_ctf():
    full, flipped = (some_views(some_images(), ctf_applied=c) for c in ("full", "flipped"))
    assert (full.ctf < 0).any()
    assert_exact(flipped.ctf, full.ctf.abs())


def test_unknown_state_of_the_ctf_is_refused():
    with pytest.raises(ValueError, match="ctf_applied"):
        some_views(some_images(), ctf_applied="none")


@pytest.mark.parametrize("radius", [3, 7])
def test_prefix_is_what_a_smaller_radius_makes(radius):
    images = some_images()
    cut, small = some_views(images).prefix(radius), some_views(images, radius=radius)
    for name in ("data", "noise_power", "group"):
        assert_exact(getattr(cut, name), getattr(small, name))
    torch.testing.assert_close(cut.ctf, small.ctf)
    assert cut.disc.n_coefficients == small.disc.n_coefficients


@pytest.mark.parametrize("index", [slice(1, 4), torch.tensor([3, 0, 2])])
def test_taken_views_are_those_of_the_taken_images(index):
    views = some_views(some_images())
    taken = views.take(index)
    for name in ("data", "ctf", "noise_power", "group"):
        assert_exact(getattr(taken, name), getattr(views, name)[index])


def test_taken_optics_are_those_of_the_taken_images():
    optics = astigmatic_optics(6, torch.Generator().manual_seed(0))
    index = torch.tensor([4, 1])
    for field in dataclasses.fields(Optics):
        assert_exact(getattr(optics.take(index), field.name), getattr(optics, field.name)[index])


@pytest.mark.parametrize("box", [16, 17])
def test_shifted_views_are_views_of_shifted_images(box):
    images = some_images(box=box)
    shifts = torch.linspace(-9, 7, 10, dtype=torch.float64).view(5, 2)
    moved_ft = fourier_shift(rfft2(images), shifts, shape=(box, box), pixel_size_angst=PIXEL_ANGST)
    views = some_views(images)
    assert_close_to_peak(views.shifted(shifts).data, gather_disc(moved_ft, views.disc), 2e-5)
    assert_exact(views.shifted(torch.zeros(5, 2)).data, views.data)


def test_shift_of_the_stored_sign_brings_a_particle_to_the_centre():
    # rule 6 of the conventions: a particle 8 Å (2 px) to the right has a shift of -8 Å
    image = torch.zeros(1, 16, 16)
    image[0, 8, 10] = 1.0
    centred = torch.zeros(1, 16, 16)
    centred[0, 8, 8] = 1.0
    disc = half_disc(16, 7)
    phases = shift_phases(torch.tensor([[-8.0, 0.0]]), disc, PIXEL_ANGST)
    moved = gather_disc(rfft2(image), disc) * phases
    assert_close_to_peak(moved, gather_disc(rfft2(centred), disc))


def test_simulated_particles_obey_the_model_of_views():
    # the particles come from atoms, exactly projected, on a wider box
    atoms = Atoms.from_arrays(
        [[0.0, 0.0, 0.0], [14.0, 5.0, -8.0], [-10.0, 12.0, 4.0], [3.0, -15.0, 11.0]],
        [8, 7, 16, 6],
        300.0,
    )
    config = ParticleConfig(
        6, 48, MicroscopeOptics(PIXEL_ANGST), snr=1e8, defocus_min_angst=5000,
        defocus_max_angst=9000, b_factor_angst2=0.0, seed=2,
    )  # fmt: skip
    table = draw_table(config)
    renderer = prepare_renderer(atoms, config)
    images = render_images(renderer, table) / renderer.signal_scale

    def column(name):
        return torch.tensor(table[name].to_list(), dtype=torch.float64)

    one = torch.ones(6, dtype=torch.float64)
    names = ("defocus_u_angst", "defocus_v_angst", "defocus_angle_deg", "phase_shift_deg")
    disc = half_disc(48, 20)
    views = make_views(
        images,
        optics=Optics(*[column(name) for name in names], 300 * one, 2.7 * one, 0.1 * one),
        noise_power=torch.ones(1, 21),
        scale=torch.ones(1),
        group=torch.zeros(6, dtype=torch.long),
        disc=disc,
        pixel_size_angst=PIXEL_ANGST,
    )
    volume = potential_volume(atoms, box_px=48, pixel_size_angst=PIXEL_ANGST)
    angles = torch.stack([column(f"angle_{n}_deg") for n in ("rot", "tilt", "psi")], 1)
    slices = extract_slices(
        volume_to_half_volume(volume[None], radius=20)[0],
        euler_to_matrix(angles),
        disc.frequencies_px,
    )
    shifts = torch.stack([column("shift_x_angst"), column("shift_y_angst")], 1)
    expected = views.ctf * slices
    got = views.shifted(shifts).data
    # the CTF moves signal over the edge of the box, where the wide one still has it
    assert (got - expected).norm() < 0.04 * expected.norm()


def test_known_aberrations_are_taken_off_the_views():
    images = some_images()
    disc = half_disc(17, 7)
    phases = torch.randn(2, len(images), disc.n_coefficients)
    plain = some_views(images)
    optics = vars(astigmatic_optics(len(images), torch.Generator().manual_seed(0)))
    views = make_views(
        images,
        optics=Optics(**optics),
        noise_power=torch.ones(2, 8),
        scale=torch.ones(2),
        group=torch.zeros(len(images), dtype=torch.long),
        disc=disc,
        pixel_size_angst=PIXEL_ANGST,
        odd_phase_rad=phases[0],
        even_phase_rad=phases[1],
    )
    turned = torch.polar(torch.ones_like(phases[0]), phases[0])
    torch.testing.assert_close(views.data * turned, plain.data)
    frequencies = disc.frequencies_px / (17 * PIXEL_ANGST)
    expected = evaluate_ctf(frequencies, **optics, phase_offset_rad=phases[1])
    torch.testing.assert_close(views.ctf, expected)
