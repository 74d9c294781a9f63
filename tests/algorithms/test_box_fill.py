"""What is filled cannot be told from what was there: level, spread, spectrum, no edge."""

import numpy as np
import pytest
import torch

from verglas.algorithms.box_fill import BoxFill, draw_like, present_pixels, spectrum_for_boxes
from verglas.kernels.fourier import rfft2
from verglas.kernels.spectrum import radial_average

BOX, RADIUS = 64, 24.0


def _coloured(shape, seed, *, exponent=1.0):
    """Noise of deviation about 10 whose slow part dominates, on a level of 500."""
    rng = np.random.default_rng(seed)
    ky, kx = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])
    fall = 1 / (1 + (np.hypot(ky, kx) / 0.05) ** 2) ** (exponent / 2)
    values = np.fft.irfft2(np.fft.rfft2(rng.standard_normal(shape)) * fall, s=shape)
    return torch.from_numpy(500 + 10 * values / values.std()).float()


def _cut(image, centres):
    """Boxes with rubbish where they leave the image, and what is present."""
    centres = torch.tensor(centres)
    shape = (image.shape[0], image.shape[1])
    present = present_pixels(centres, shape, box=BOX)
    padded = torch.nn.functional.pad(image[None, None], [BOX] * 4, value=1e4)[0, 0]
    boxes = torch.stack(
        [padded[y + BOX // 2 : y + 3 * BOX // 2, x + BOX // 2 : x + 3 * BOX // 2]
         for x, y in centres.tolist()]
    )  # fmt: skip
    return boxes, present


def _filled(image, boxes, present, *, ramp=True, seed=0):
    fill = BoxFill(spectrum_for_boxes(image, BOX), RADIUS, ramp)
    return fill(boxes, present, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def left_border():
    """256 boxes that lack 12 columns on the left, of an image with slow noise."""
    image = _coloured((2048, 300), 1)
    boxes, present = _cut(image, [[20, 40 + 7 * i] for i in range(256)])
    return image, boxes, present, _filled(image, boxes, present)


def test_pixels_that_are_there_stay(left_border):
    _, boxes, present, filled = left_border
    assert torch.equal(filled[present], boxes[present])
    assert not present[:, :, :12].any()
    assert present[:, :, 12:].all()


def test_level_and_spread_of_the_filling_are_those_of_the_rest(left_border):
    _, boxes, present, filled = left_border
    there, new = boxes[present], filled[~present]
    assert abs(float(new.mean() - there.mean())) < 0.15 * float(there.std())
    assert float(new.std() / there.std()) == pytest.approx(1.0, abs=0.1)


def test_there_is_no_edge(left_border):
    """Steps over the border are no larger than steps elsewhere; 5 % covers their scatter."""
    filled = left_border[3]
    steps = filled.diff(dim=2).square().mean(dim=(0, 1)).sqrt()
    elsewhere = steps[14:50]
    assert float(steps[11]) < 1.05 * float(elsewhere.max())
    # the same over a distance at which only the slow part counts
    apart = filled.unfold(2, 4, 1).mean(-1)
    steps = (apart[:, :, 8:] - apart[:, :, :-8]).square().mean(dim=(0, 1)).sqrt()
    assert float(steps[:12].max()) < 1.25 * float(steps[20:].mean())


def test_spectrum_of_a_filled_box_is_that_of_a_whole_one(left_border):
    image, _, _, filled = left_border
    whole, _ = _cut(image, [[150, 40 + 7 * i] for i in range(256)])
    window = torch.hann_window(BOX)[:, None] * torch.hann_window(BOX)
    power = [
        radial_average(
            rfft2((boxes - boxes.mean(dim=(1, 2), keepdim=True)) * window).abs().square()
        ).mean(0)
        for boxes in (filled, whole)
    ]
    ratio = (power[0] / power[1])[1:]
    assert float(ratio.min()) > 0.8
    assert float(ratio.max()) < 1.25


def test_slope_goes_on_into_the_corner():
    slope = torch.arange(200.0)[:, None] * 2.0 + torch.arange(220.0) * -1.0
    image = slope + torch.randn(200, 220, generator=torch.Generator().manual_seed(3))
    boxes, present = _cut(image, [[22, 25], [195, 180]])
    filled = _filled(image, boxes, present)
    rows, columns = torch.meshgrid(torch.arange(BOX), torch.arange(BOX), indexing="ij")
    for box, (x, y) in zip(filled, [(22, 25), (195, 180)], strict=True):
        truth = 2.0 * (rows + y - BOX // 2) - 1.0 * (columns + x - BOX // 2)
        assert float((box - truth).abs().max()) < 6.5  # 4096 values of a deviation of 1
        assert float((box - truth).std()) == pytest.approx(1.0, abs=0.1)


def test_particle_in_the_disc_does_not_raise_the_filling():
    image = torch.randn(200, 200, generator=torch.Generator().manual_seed(4))
    boxes, present = _cut(image, [[24, 100]])
    boxes[:, 20:44, 20:44] += 30.0
    filled = _filled(image, boxes, present)
    assert abs(float(filled[~present].mean())) < 0.5


def test_noise_is_drawn_with_the_spectrum_that_was_measured():
    power = spectrum_for_boxes(_coloured((256, 256), 5), BOX)
    drawn = draw_like(power, 200, generator=torch.Generator().manual_seed(1))
    assert float(drawn.square().mean()) == pytest.approx(1.0, abs=0.02)
    form = (
        radial_average(rfft2(drawn).abs().square()).mean(0)[1:] / radial_average(power[None])[0, 1:]
    )
    assert float(form.max() / form.min()) < 1.3


def test_constant_image_is_filled_with_its_constant():
    image = torch.full((100, 100), 7.0)
    boxes, present = _cut(image, [[22, 50]])
    assert torch.allclose(_filled(image, boxes, present), torch.tensor(7.0), atol=1e-3)
