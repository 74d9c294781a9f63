"""Pixels: where things land, how long bars are, what a page is given."""

import io

import numpy as np
import pytest
from PIL import Image

from verglas.viewers.drawing import (
    draw_circles,
    draw_label,
    draw_scale_bar,
    grey_picture,
    length_text,
    montage,
    nice_length_angst,
    shrink,
)
from verglas.viewers.gallery import Tile, gallery_picture
from verglas.viewers.micrographs import band_pass, micrograph_picture, thumbnail
from verglas.viewers.palette import finish, plot
from verglas.viewers.picture import from_image

GENERATOR = np.random.default_rng(3)


def opened(picture):
    return Image.open(io.BytesIO(picture.png))


def test_first_row_is_the_bottom_line():
    image = np.zeros((4, 6))
    image[0] = 1.0
    picture = np.asarray(grey_picture(image, (0, 100)))
    assert (picture[-1] == 255).all()
    assert (picture[:-1] == 0).all()


@pytest.mark.parametrize(
    ("longest", "length"), [(99.9, 50), (100, 100), (1.4, 1), (0.7, 0.5), (4999, 2000)]
)
def test_bars_are_one_two_or_five(longest, length):
    assert nice_length_angst(longest) == pytest.approx(length)


def test_lengths_have_the_shortest_unit():
    assert [length_text(x) for x in (50, 2000, 20000)] == ["50 Å", "200 nm", "2 µm"]


def test_scale_bar_is_as_long_as_it_says():
    image = Image.new("RGB", (400, 300))
    draw_scale_bar(image, 2.5, share=0.25)  # at most 250 Å: a bar of 200 Å or 80 px
    white = (np.asarray(image).min(axis=2) == 255).sum(axis=1)
    assert 80 <= white.max() <= 82


def test_circle_is_drawn_about_the_position_counted_from_below():
    image = Image.new("RGB", (60, 100))
    draw_circles(image, np.array([20.0]), np.array([30.0]), radius_px=8, colour="#ffffff")
    line = np.asarray(image)[..., 0].astype(float)
    column = (line.sum(axis=0) * np.arange(60)).sum() / line.sum()
    row = (line.sum(axis=1) * np.arange(100)).sum() / line.sum()
    assert (column, 99 - row) == pytest.approx((20.0, 30.0), abs=0.2)


def test_long_label_is_cut_to_the_picture():
    image = Image.new("RGB", (200, 100))
    draw_label(image, "a very long name of a micrograph\nand a second line", "bottom right")
    assert np.asarray(image).any()


def test_shrinking_keeps_the_mean_and_the_limit():
    image = GENERATOR.normal(size=(1000, 700)).astype(np.float32)
    small, factor = shrink(image, 100)
    assert max(small.shape) <= 200
    assert small.mean() == pytest.approx(image[: 5 * 200, : 5 * 140].mean(), abs=1e-3)
    assert factor == 5


def test_band_pass_halves_waves_of_the_named_length():
    x = np.arange(240)
    wave = np.cos(2 * np.pi * x / 12)[None].repeat(240, axis=0)
    passed = band_pass(wave, low_pass_px=12, high_pass_px=1e6)
    assert np.abs(passed).max() == pytest.approx(0.5, rel=1e-3)


def test_thumbnail_knows_its_pixel_size():
    picture, pixel = thumbnail(np.ones((600, 900)), pixel_size_angst=2.0, side_px=300)
    assert picture.size == (300, 200)
    assert pixel == pytest.approx(6.0)


def test_pick_lies_on_its_particle():
    y, x = np.mgrid[:400, :300]
    image = 5.0 * np.exp(-((x - 100) ** 2 + (y - 250) ** 2) / 200)
    picture = micrograph_picture(
        image,
        "m",
        pixel_size_angst=3.0,
        x_angst=np.array([300.0]),
        y_angst=np.array([750.0]),
        diameter_angst=120.0,
        side_px=800,
    )
    pixels = np.asarray(opened(picture)).astype(int)
    circle = np.argwhere((pixels[..., 1] - pixels[..., 0]) > 100)
    blob = np.argwhere(pixels[:700, :, 0] > 250)  # above the scale bar
    assert circle.mean(axis=0) == pytest.approx(blob.mean(axis=0), abs=1.5)


def test_tiles_stand_apart_on_a_transparent_ground():
    sheet = montage([Image.new("RGB", (10, 10), "white")] * 3, n_columns=2, gap_px=4)
    assert sheet.size == (24, 24)
    assert np.asarray(sheet)[5, 11, 3] == 0
    assert np.asarray(sheet)[18, 18, 3] == 0


def test_gallery_has_a_tile_for_each_image():
    images = [GENERATOR.normal(size=(32, 32)) for _ in range(9)]
    tiles = [Tile(image, f"{i}", is_framed=i == 0) for i, image in enumerate(images)]
    picture = gallery_picture(tiles, "g", alt="nine", n_columns=8)
    width, height = opened(picture).size
    assert (picture.width_px, round(width / height)) == (width // 2, 4)


def test_picture_on_the_page_is_smaller_than_the_file():
    noise = GENERATOR.integers(0, 255, (200, 200, 3), dtype=np.uint8)
    picture = from_image(Image.fromarray(noise), "n", alt="noise")
    assert picture.png.startswith(b"\x89PNG")
    assert picture.data_uri.startswith("data:image/")
    assert len(picture.data_uri) < len(picture.png)


def test_plot_on_the_page_has_its_colours_and_own_ids():
    with plot() as (figure, axes):
        axes.plot([0, 1], [0, 1])
        axes.set(xlabel="x < y")
        picture = finish(figure, "p-1", alt='a "line"')
    assert "var(--series-1)" in picture.svg
    assert 'aria-label="a &quot;line&quot;"' in picture.svg
    assert "<style" not in picture.svg
    assert 'id="p-1-' in picture.svg
    assert "#0f6e84" not in picture.svg
    assert picture.png.startswith(b"\x89PNG")
