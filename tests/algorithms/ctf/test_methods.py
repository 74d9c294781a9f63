"""Four objectives find the same CTF, in ordinary and in awkward images."""

import math

import numpy as np
import pytest
import torch

from tests.algorithms.thon import ctf, micrograph
from verglas.algorithms.ctf.fit import CtfFit, CtfFitConfig, CtfStart, fit_ctf

METHODS = ("likelihood", "correlation", "equiphase", "parametric")
SIDE, PIXEL, KV, CS = 768, 1.5, 300.0, 2.7


def _fit(image, *, start=None, cs_mm=CS, kv=KV, pixel_size_angst=PIXEL, **config) -> CtfFit:
    return fit_ctf(
        torch.from_numpy(image),
        pixel_size_angst=pixel_size_angst,
        voltage_kv=kv,
        spherical_aberration_mm=cs_mm,
        amplitude_contrast=0.07,
        config=CtfFitConfig(**config),
        start=start,
    )


def _mean(fit: CtfFit) -> float:
    return 0.5 * (fit.defocus_u_angst + fit.defocus_v_angst)


def _image(seed, *, snr=1.0, side=SIDE, **truth):
    defaults = {"cs_mm": CS, "kv": KV, "pixel_size_angst": PIXEL, "shape": (side, side)}
    return micrograph(np.random.default_rng(seed), snr=snr, **(defaults | truth))


@pytest.fixture(scope="module")
def plain():
    """Three images: 8000 to 22000 Å, 100 to 600 Å of astigmatism, SNR 1 at 1.5 Å."""
    truth = [(8000.0, 100.0, 10.0), (14000.0, 300.0, 60.0), (22000.0, 600.0, 110.0)]
    return truth, [
        _image(i, side=1024, defocus_angst=z, astigmatism_angst=a, angle_deg=t)
        for i, (z, a, t) in enumerate(truth)
    ]


@pytest.mark.parametrize("method", METHODS)
def test_defocus_and_astigmatism_are_found(plain, method):
    """Medians over three images of 1024 x 1024: 30 Å and 40 Å."""
    truth, images = plain
    fits = [_fit(image, method=method) for image in images]
    defocus = [abs(_mean(f) - z) for f, (z, _, _) in zip(fits, truth, strict=True)]
    difference = [
        abs(f.defocus_u_angst - f.defocus_v_angst - a)
        for f, (_, a, _) in zip(fits, truth, strict=True)
    ]
    turned = [
        abs((f.defocus_angle_deg - t + 90.0) % 180.0 - 90.0)
        for f, (_, a, t) in zip(fits, truth, strict=True)
        if a > 200.0
    ]
    assert np.median(defocus) < 30.0
    assert np.median(difference) < 40.0
    assert max(turned) < 10.0
    assert all(f.has_rings and f.fit_res_angst < 5.0 for f in fits)
    assert all(d < 4.5 * f.defocus_error_angst for d, f in zip(defocus, fits, strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_phase_shift_is_found_within_3_degrees(method):
    image = _image(5, defocus_angst=12000.0, phase_deg=70.0, snr=1.5)
    fit = _fit(image, method=method, max_phase_shift_deg=180.0)
    assert abs(fit.phase_shift_deg - 70.0) < 3.0
    assert 0.0 < fit.phase_shift_error_deg < 3.0
    assert abs(_mean(fit) - 12000.0) < 60.0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("truth", "search", "limit"),
    [
        ({"defocus_angst": 3000.0, "snr": 2.0}, {"min_defocus_angst": 2000.0}, 60.0),
        ({"defocus_angst": 40000.0, "snr": 1.5}, {}, 60.0),
        ({"defocus_angst": 20000.0, "kv": 200.0, "cs_mm": 0.01}, {"kv": 200.0, "cs_mm": 0.01}, 40),
        (
            {"defocus_angst": 20000.0, "astigmatism_angst": 3000.0},
            {"max_astigmatism_angst": 4000.0},
            40.0,
        ),
    ],
    ids=["low", "high", "200kV", "astigmatic"],
)
def test_extreme_optics_are_fitted(method, truth, search, limit):
    fit = _fit(_image(7, **truth), method=method, **search)
    assert abs(_mean(fit) - truth["defocus_angst"]) < limit
    wanted = truth.get("astigmatism_angst", 300.0)
    assert abs(fit.defocus_u_angst - fit.defocus_v_angst - wanted) < 3.0 * limit


@pytest.mark.parametrize("method", METHODS)
def test_noise_has_no_rings(method):
    image = np.random.default_rng(8).standard_normal((512, 512)).astype("f4")
    fit = _fit(image, method=method)
    assert not fit.has_rings
    assert fit.fit_res_angst == 30.0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_noise_that_fades_with_frequency_has_no_rings(method, exponent):
    white = np.fft.rfft2(np.random.default_rng(21).standard_normal((512, 512)))
    frequency = np.hypot(np.fft.fftfreq(512)[:, None], np.fft.rfftfreq(512))
    image = np.fft.irfft2(white * (frequency + 0.02) ** -exponent).astype("f4")
    assert not _fit(image, method=method).has_rings


@pytest.mark.parametrize("method", METHODS)
def test_borders_and_missing_pixels_do_not_matter(method):
    """A border of one pixel, 1 % of pixels missing, a corner blank: within 40 Å."""
    image = _image(9, defocus_angst=16000.0)
    image[[0, -1]] = image[:, [0, -1]] = 50.0
    image[:60, :60] = math.nan
    image[np.random.default_rng(0).random(image.shape) < 0.01] = math.nan
    fit = _fit(image, method=method)
    assert abs(_mean(fit) - 16000.0) < 40.0


def test_constant_and_empty_images_are_refused():
    with pytest.raises(ValueError, match="all pixels have the value 3"):
        _fit(np.full((256, 256), 3.0, np.float32))
    with pytest.raises(ValueError, match="pixels are numbers"):
        _fit(np.full((256, 256), math.nan, np.float32))


@pytest.mark.parametrize("method", METHODS)
def test_an_earlier_estimate_takes_the_place_of_the_search(plain, method):
    truth, images = plain
    z, a, t = truth[1]
    near = CtfStart(z + a / 2 + 150.0, z - a / 2 + 150.0, t + 5.0)
    assert abs(_mean(_fit(images[1], method=method, start=near)) - z) < 40.0
    far = CtfStart(z + 6000.0, z + 6000.0, 0.0)
    assert abs(_mean(_fit(images[1], method=method, start=far)) - z) > 500.0


@pytest.mark.parametrize("method", METHODS)
def test_equal_images_give_equal_fits(plain, method):
    """To the last digits: sums of a matrix product depend on where it lies in memory."""
    image = plain[1][0][:512, :512]
    first, second = (_fit(image.copy(), method=method) for _ in range(2))
    assert first.defocus_u_angst == pytest.approx(second.defocus_u_angst, rel=1e-12)


def _slab(rng, thickness, *, defocus=18000.0, side=1024, snr=0.8, n_layers=10):
    """White specimen through a slab: each layer has its own defocus."""
    shape = (side, side)
    total = 0.0
    for height in (np.arange(n_layers) + 0.5) / n_layers - 0.5:
        transfer, square = ctf(
            shape,
            pixel_size_angst=PIXEL,
            defocus_angst=defocus + height * thickness,
            astigmatism_angst=300.0,
            angle_deg=50.0,
            cs_mm=CS,
            kv=KV,
        )
        total = total + np.fft.rfft2(rng.standard_normal(shape)) * transfer
    signal = np.fft.irfft2(total * np.exp(-10.0 * square), s=shape) * math.sqrt(snr / n_layers)
    return (rng.standard_normal(shape) + signal).astype(np.float32)


def test_thickness_is_told_by_the_node():
    """1500 Å of ice: node at 5.4 Å; SNR 0.8, 1024 x 1024 pixels; within 4 standard errors."""
    fit = _fit(
        _slab(np.random.default_rng(0), 1500.0), method="correlation", max_thickness_angst=4000
    )
    assert abs(fit.thickness_angst - 1500.0) < 4.0 * fit.thickness_error_angst
    assert fit.thickness_error_angst < 120.0
    assert abs(_mean(fit) - 18000.0) < 50.0


def _tilted(rng, tilt_deg, *, defocus=18000.0, side=1024, snr=0.8, n_strips=20):
    """White specimen whose defocus rises along x: each strip has its own, neighbours blend."""
    white, image = np.fft.rfft2(rng.standard_normal((side, side))), 0.0
    knots = np.linspace(-0.5, 0.5, n_strips)
    along = np.linspace(-0.5, 0.5, side)
    for knot in knots:
        transfer, square = ctf(
            (side, side),
            pixel_size_angst=PIXEL,
            defocus_angst=defocus + knot * side * PIXEL * math.tan(math.radians(tilt_deg)),
            astigmatism_angst=300.0,
            angle_deg=50.0,
            cs_mm=CS,
            kv=KV,
        )
        strip = np.fft.irfft2(white * transfer * np.exp(-10.0 * square), s=(side, side))
        image = image + strip * np.clip(1 - abs(along - knot) * (n_strips - 1), 0, 1)
    return (rng.standard_normal((side, side)) + math.sqrt(snr) * image).astype(np.float32)


@pytest.mark.parametrize("tilt_deg", [30.0, -40.0])
def test_nodes_of_a_steep_tilt_do_not_pass_for_thick_ice(tilt_deg):
    """SNR 0.8, 1024 x 1024 pixels; slope within 6 %, defocus within 60 Å, no thickness."""
    fit = _fit(
        _tilted(np.random.default_rng(3), tilt_deg), method="correlation", max_thickness_angst=4000
    )
    assert math.isnan(fit.thickness_angst)
    assert fit.slope.slope_x == pytest.approx(math.tan(math.radians(tilt_deg)), rel=0.06)
    assert abs(_mean(fit) - 18000.0) < 60.0


def test_thin_ice_has_no_thickness(plain):
    fit = _fit(plain[1][2], method="correlation", max_thickness_angst=4000.0)
    assert math.isnan(fit.thickness_angst)


def _with_crystal(image, *, spacing_angst, strength, ring=False):
    """Add a lattice of one direction in a quarter of the image, or a sharp powder ring."""
    side = len(image)
    if ring:
        rng = np.random.default_rng(1)
        y = np.fft.fftfreq(side, PIXEL)[:, None]
        k = np.hypot(y, np.fft.rfftfreq(side, PIXEL)[None])
        shell = np.exp(-0.5 * ((k - 1 / spacing_angst) / 0.003) ** 2)
        noise = np.fft.rfft2(rng.standard_normal(image.shape))
        return (image + strength * np.fft.irfft2(noise * shell, s=image.shape)).astype(np.float32)
    y, x = np.mgrid[:side, :side] * PIXEL
    wave = strength * np.cos(2 * np.pi * (0.8 * x + 0.6 * y) / spacing_angst)
    wave[side // 2 :] = wave[:, side // 2 :] = 0.0
    return (image + wave).astype(np.float32)


@pytest.mark.parametrize("method", METHODS)
def test_ice_rings_and_reflections_are_flagged(plain, method):
    image = plain[1][1][:768, :768]
    clean = _fit(image, method=method).ice
    assert abs(clean.ring_ratio) < 0.1
    assert clean.n_reflections == 0
    assert clean.crystal_fraction == 0.0
    ring = _fit(_with_crystal(image, spacing_angst=3.67, strength=2.0, ring=True), method=method)
    assert ring.ice.ring_ratio > 0.5
    spots = _fit(_with_crystal(image, spacing_angst=3.67, strength=0.3), method=method).ice
    assert spots.n_reflections > 0
    assert 0.0 < spots.crystal_fraction <= 1.0


@pytest.mark.slow
def test_covariance_of_the_likelihood_covers_the_truth():
    """95 % +- 3 % plus two standard errors, over 150 images of 512 x 512 at SNR 1."""
    rng = np.random.default_rng(20)
    inside = []
    for seed in range(150):
        z, a, t = rng.uniform(8000, 22000), rng.uniform(0, 600), rng.uniform(0, 180)
        image = _image(seed, side=512, defocus_angst=z, astigmatism_angst=a, angle_deg=t)
        fit = _fit(image)
        inside.append(abs(_mean(fit) - z) < 1.96 * fit.defocus_error_angst)
    assert abs(np.mean(inside) - 0.95) < 0.03 + 2 * math.sqrt(0.95 * 0.05 / len(inside))
