"""Boxes hold what they should, where they should, on the scale they should."""

import numpy as np
import pytest
import torch

from tests.algorithms.thon import ctf
from verglas.algorithms.extraction import ExtractConfig, extract_boxes, flip_phases
from verglas.kernels.fourier import fourier_shift, irfft2, rfft2


def _extract(image, position, *, seed=0, **config):
    sizes = {"box_px": 64, "output_px": 64, "background_radius_px": 24.0}
    config = sizes | {"particle_radius_px": 20.0} | config
    return extract_boxes(
        torch.as_tensor(image),
        torch.as_tensor(position, dtype=torch.float64),
        config=ExtractConfig(**config),
        generator=torch.Generator().manual_seed(seed),
    )


def _blob(shape, x, y, sigma):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 2 / sigma**2)


def test_shift_brings_fractional_position_to_the_centre():
    """Error below 1e-3 of the deviation of the truth, shift accounted for."""
    image = -_blob((200, 220), 101.3, 88.6, 4.0).astype(np.float32)
    result = _extract(image, [[101.3, 88.6]], dust_sigma=0.0, ramp=False)
    torch.testing.assert_close(
        result.shift_px, torch.tensor([[-0.3, 0.4]], dtype=torch.float64), atol=1e-9, rtol=0
    )
    shifted = irfft2(
        fourier_shift(
            rfft2(result.images), result.shift_px.float(), shape=(64, 64), pixel_size_angst=1.0
        ),
        shape=(64, 64),
    )[0]
    truth = torch.from_numpy(_blob((64, 64), 32, 32, 4.0)).float()
    shifted, truth = shifted - shifted.mean(), truth - truth.mean()
    scale = (shifted * truth).sum() / truth.square().sum()
    assert (shifted / scale - truth).abs().max() < 1e-3 * truth.std()


def test_protein_is_bright_and_background_is_normal():
    rng = np.random.default_rng(1)
    image = rng.normal(500, 20, (300, 300)) - 60 * _blob((300, 300), 150, 140, 8)
    image += 0.3 * np.arange(300)[:, None]
    result = _extract(image.astype(np.float32), [[150, 140]])
    axis = torch.arange(64) - 32
    outside = axis.square()[:, None] + axis.square() > 24**2
    background = result.images[0][outside]
    assert abs(float(background.mean())) < 1e-4
    assert float(background.std(correction=0)) == pytest.approx(1.0, abs=1e-3)
    assert result.images[0, 32, 32] > 1.5
    assert float(result.background_mean) == pytest.approx(500 + 0.3 * 140, abs=3)
    assert float(result.background_std) == pytest.approx(20, rel=0.1)


@pytest.mark.parametrize(
    ("inside", "kept"),
    [("box", [0, 2, 3]), ("particle", [0, 1, 2, 3, 4, 5, 7]), ("centre", [0, 1, 2, 3, 4, 5, 6, 7])],
)
def test_positions_at_the_border_are_kept_by_what_must_be_inside(inside, kept):
    image = np.random.default_rng(2).normal(size=(200, 300)).astype(np.float32)
    position = [
        [100, 100], [31, 100], [32, 32], [268, 168], [269, 168], [19.5, 100],
        [19.4, 100], [279.5, 179.5], [150, -40],
    ]  # fmt: skip
    result = _extract(image, position, must_be_inside=inside)
    assert result.index.tolist() == kept
    assert torch.isfinite(result.images).all()
    filled = [position[i][0] not in (100, 32, 268) for i in kept]
    assert (result.fill_fraction > 0).tolist() == filled


def test_image_smaller_than_the_box_gives_nothing():
    image = np.random.default_rng(2).normal(size=(60, 300)).astype(np.float32)
    assert _extract(image, [[150, 30]]).index.tolist() == []


def test_particle_at_the_border_is_as_it_would_be_in_a_larger_image():
    """Inside the disc the box equals that of the whole micrograph to 3 % of the noise."""
    rng = np.random.default_rng(7)
    image = rng.normal(300, 10, (200, 300)) - 30 * _blob((200, 300), 122, 100, 7)
    image = (image + 0.2 * np.arange(200)[:, None]).astype(np.float32)
    whole = _extract(image, [[122, 100]])
    cut = _extract(image[:, 100:], [[22, 100]])
    assert float(cut.fill_fraction) == pytest.approx(10 / 64)
    axis = torch.arange(64) - 32
    disc = axis.square()[:, None] + axis.square() <= 20**2
    # scale and background are estimated from other noise: a factor and a plane remain
    inside = cut.images[0][disc], whole.images[0][disc]
    assert float((inside[0] - inside[1]).abs().mean()) < 0.1
    assert float(np.corrcoef(np.stack([v.numpy() for v in inside]))[0, 1]) > 0.999


def test_rescaled_box_keeps_its_centre():
    image = -_blob((200, 200), 100, 100, 6.0).astype(np.float32)
    result = _extract(image, [[100, 100]], output_px=32, dust_sigma=0.0)
    peak = int(result.images[0].argmax())
    assert divmod(peak, 32) == (16, 16)
    assert result.images.shape == (1, 32, 32)


def test_rescaled_noise_has_unit_deviation():
    image = np.random.default_rng(3).normal(3, 7, (400, 400)).astype(np.float32)
    result = _extract(image, [[200, 200], [100, 150]], output_px=32)
    axis = torch.arange(32) - 16
    outside = axis.square()[:, None] + axis.square() > 12**2
    assert float(result.images[:, outside].std()) == pytest.approx(1.0, abs=0.02)


def test_hot_pixels_vanish():
    image = np.random.default_rng(4).normal(size=(200, 200)).astype(np.float32)
    image[100, 110] = 1e5
    assert _extract(image, [[100, 100]]).images.abs().max() < 6


def test_no_positions_give_no_boxes():
    result = _extract(np.zeros((100, 100), np.float32), np.zeros((0, 2)))
    assert result.images.shape == (0, 64, 64)


def test_input_is_left_alone():
    image = torch.from_numpy(np.random.default_rng(5).normal(size=(100, 100)).astype(np.float32))
    before = image.clone()
    _extract(image, [[50, 50]])
    assert torch.equal(image, before)


def test_flipped_phases_make_every_transfer_positive():
    rng = np.random.default_rng(6)
    shape = (256, 320)
    optics = {
        "pixel_size_angst": 2.0, "defocus_angst": 15000.0, "astigmatism_angst": 400.0,
        "angle_deg": 30.0, "cs_mm": 2.7, "kv": 300.0,
    }  # fmt: skip
    transfer, _ = ctf(shape, **optics)
    truth = rng.normal(size=shape)
    seen = np.fft.irfft2(np.fft.rfft2(truth) * transfer, s=shape)
    flipped = flip_phases(
        torch.from_numpy(seen).float(),
        pixel_size_angst=2.0,
        defocus_u_angst=15200.0,
        defocus_v_angst=14800.0,
        defocus_angle_deg=30.0,
        phase_shift_deg=0.0,
        voltage_kv=300.0,
        spherical_aberration_mm=2.7,
        amplitude_contrast=0.07,
    )
    expected = np.fft.irfft2(np.fft.rfft2(truth) * np.abs(transfer), s=shape)
    assert np.abs(flipped.numpy() - expected).max() < 0.05 * np.abs(expected).max()


def test_boxes_equal_the_definition_worked_out_one_by_one():
    """Float64: plane off, Fourier crop, plane off, unit deviation; 120 to 60 px."""
    rng = np.random.default_rng(9)
    image = (700 + rng.normal(0, 25, (400, 400)) + 0.1 * np.arange(400)).astype(np.float32)
    position = rng.uniform(60, 340, (40, 2))
    found = _extract(
        image, position, box_px=120, output_px=60, background_radius_px=45.0, must_be_inside="box"
    )

    def level(box, radius):
        axis = np.arange(len(box)) - len(box) // 2
        outside = np.hypot(axis[:, None], axis) > radius
        design = np.stack(np.broadcast_arrays(1.0, axis, axis[:, None]), axis=-1)
        fit = np.linalg.lstsq(design[outside], box[outside], rcond=None)[0]
        return box - design @ fit, outside

    for i in (0, 13, 39):
        x, y = np.rint(position[found.index[i]]).astype(int)
        box, _ = level(-image[y - 60 : y + 60, x - 60 : x + 60].astype(np.float64), 45)
        kept = np.fft.fftshift(np.fft.fft2(box))[30:91, 30:91]
        kept[0] += kept[-1]
        kept[:, 0] += kept[:, -1]
        small = np.fft.ifft2(np.fft.ifftshift(kept[:-1, :-1])).real
        small, outside = level(small, 22.5)
        expected = small / small[outside].std()
        np.testing.assert_allclose(found.images[i], expected, atol=1e-4)
