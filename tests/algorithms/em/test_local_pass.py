import numpy as np
import pytest
import torch

from tests.algorithms.atom_images import Scene, make_scenery
from verglas.algorithms.aberrations import Aberrations
from verglas.algorithms.em.local import Starts, climb
from verglas.algorithms.em.local_pass import (
    Amplitudes,
    HalfMap,
    climb_from,
    local_views,
    measure_amplitudes,
    scaled_shells,
)
from verglas.algorithms.em.references import References
from verglas.algorithms.image_tables import aberration_tables
from verglas.algorithms.views import Optics, make_views
from verglas.kernels.disc import half_disc
from verglas.kernels.disc_list import list_disc
from verglas.kernels.half_volumes import half_volume_of
from verglas.kernels.rotations import turned

BOX, PIXEL, RADIUS, N = 32, 4.0, 15, 60


def _amplitudes(explained):
    explained = np.array(explained)
    return Amplitudes(cross=np.sqrt(explained), power=np.ones(6), total=explained + 1)


def test_the_first_climb_stops_where_most_of_the_signal_is_told():
    assert _amplitudes([9.0, 50.0, 40.0, 6.0, 3.0, 1.0]).informed_radius() == 3
    # what lies in shell 0 is the mean grey value and says nothing of poses
    assert _amplitudes([900.0, 1.0, 1.0, 1.0, 1.0, 1.0]).informed_radius() == 5


def test_a_map_that_explains_nothing_still_has_a_radius():
    assert _amplitudes([0.0] * 6).informed_radius() == 2


@pytest.fixture(scope="module")
def made():
    return make_scenery(Scene(box=BOX, pixel=PIXEL, n=N, snr=0.5))


def _noise(made):
    """Variance of one real component of the transform, alike in all shells."""
    return np.full((N, RADIUS + 1), BOX**2 * made.noise_std**2 / 2)


def _views(made):
    return local_views(
        made.pictures,
        made.images,
        aberration_tables([Aberrations()], BOX, BOX * PIXEL),
        noise_power=_noise(made),
        disc=list_disc(BOX, RADIUS),
        pixel_size_angst=PIXEL,
    )


def _tensor_views(made):
    names = ("defocus_u_angst", "defocus_v_angst", "defocus_angle_deg", "phase_shift_deg")
    names += ("voltage_kv", "spherical_aberration_mm", "amplitude_contrast")
    return make_views(
        torch.from_numpy(made.pictures),
        optics=Optics(*(torch.from_numpy(getattr(made.images, name)) for name in names)),
        noise_power=torch.from_numpy(_noise(made)).float(),
        scale=torch.ones(N),
        group=torch.arange(N),
        disc=half_disc(BOX, RADIUS),
        pixel_size_angst=PIXEL,
    )


def _half_map(made):
    return HalfMap(half_volume_of(made.volume.astype(np.float32), radius=RADIUS), 2)


def test_views_are_those_of_the_engine(made):
    views = _views(made)
    signal, weight = _tensor_views(made).whitened()
    found = views.signal.view(np.complex64)
    # the CTF is a polynomial in single precision in one, and worked out in double in the other
    assert np.abs(found - signal.numpy()).max() < 1e-4 * signal.abs().max()
    assert np.abs(views.weight - weight.numpy()).max() < 1e-4 * weight.max()


def test_a_climb_ends_where_that_of_the_engine_does(made):
    rng = np.random.default_rng(0)
    rotations = turned(made.images.rotation_ref_to_img, 0.05 * rng.normal(size=(N, 3)))
    shifts = made.images.shift_angst + rng.normal(size=(N, 2))
    half = _half_map(made)
    found = climb_from(_views(made), half, rotations, shifts, radius=RADIUS, shift_prior_angst=8.0)
    references = References(
        torch.from_numpy(half.half_volume)[None], torch.zeros(1), half.padding, planar=False
    )
    starts = Starts(
        torch.arange(N),
        torch.zeros(N, dtype=torch.long),
        torch.from_numpy(rotations),
        torch.from_numpy(shifts),
    )
    expected = climb(_tensor_views(made), references, starts, shift_prior_angst=8.0, steps=8)
    gap = np.abs(found.loglik - expected.loglik.numpy())
    assert np.median(gap) < 0.01
    assert gap.max() < 0.5  # log units, of steps that end elsewhere on a flat top
    turn = found.rotation_ref_to_img - expected.at.rotations_ref_to_img.numpy()
    assert np.median(np.abs(turn).max((1, 2))) < 2e-3


def test_the_strength_of_a_map_is_found_shell_by_shell(made):
    wrong = np.linspace(0.5, 2.0, RADIUS + 1)
    half = _half_map(made)
    weaker = HalfMap(scaled_shells(half.half_volume, wrong, half.padding), half.padding)
    poses = made.images.rotation_ref_to_img, made.images.shift_angst
    found = measure_amplitudes(_views(made), weaker, *poses).factors()
    # 60 images of 32 px at SNR 0.5; beyond shell 9 these atoms leave little
    np.testing.assert_allclose((found * wrong)[1:10], 1.0, rtol=0.2)


def test_some_of_the_views_are_measured(made):
    views, half = _views(made), _half_map(made)
    poses = made.images.rotation_ref_to_img, made.images.shift_angst
    every = [measure_amplitudes(views, half, *poses, every=n).total.sum() for n in (1, 3)]
    assert every[1] == pytest.approx(every[0] / 3, rel=0.05)
