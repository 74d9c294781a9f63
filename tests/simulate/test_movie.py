import dataclasses
import itertools

import numpy as np
import pytest

from verglas.model.columns import COLUMNS
from verglas.simulate.atoms import radius_angst
from verglas.simulate.contamination import ContaminationConfig
from verglas.simulate.damage import remaining_amplitude
from verglas.simulate.detector import DetectorConfig
from verglas.simulate.ice import stirring_rate_angst2
from verglas.simulate.micrograph import MicrographConfig
from verglas.simulate.motion import MotionConfig
from verglas.simulate.movie import (
    MovieConfig,
    detector_of,
    draw_movie,
    prepare_movie_renderer,
    render_frames,
    split_into_raw_frames,
)
from verglas.simulate.particles import Optics

PERFECT = DetectorConfig(1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
STILL = MotionConfig(drift_angst=0.0, jitter_angst=0.0, local_angst=0.0)
CONFIG = MovieConfig(
    MicrographConfig(
        n_micrographs=2,
        height_px=192,
        width_px=240,
        optics=Optics(2.0),
        particles_per_micrograph=8,
        dose_e_per_angst2=12.0,
        seed=5,
    ),
    n_frames=4,
)
QUIET = dataclasses.replace(
    CONFIG.field, ice_thickness_angst=0.0, shot_noise="none", gradient=0.0, mtf_at_nyquist=1.0
)
# a million electrons, so that rounding to whole counts is no noise
CLEAN = MovieConfig(
    dataclasses.replace(QUIET, dose_e_per_angst2=40_000.0),
    n_frames=4,
    motion=STILL,
    detector=PERFECT,
    is_damaged=False,
)


def _render(atoms, config, index=0):
    truth = draw_movie(config, index, 2 * radius_angst(atoms))
    renderer = prepare_movie_renderer(atoms, config)
    frames = list(render_frames(renderer, config, truth, detector_of(config)))
    return np.stack(frames).astype(np.float64), truth


def _ring_power(images, low, high, pixel=2.0):
    k = np.hypot(*np.meshgrid(*[np.fft.fftfreq(n, pixel) for n in images.shape[:-3:-1]]))
    ring = (k >= low) & (k < high)
    window = np.hanning(images.shape[-2])[:, None] * np.hanning(images.shape[-1])
    centred = images - images.mean((-2, -1), keepdims=True)
    return np.abs(np.fft.fft2(centred * window))[..., ring] ** 2


def test_frames_are_the_first_one_moved_and_lose_nothing(few_atoms):
    """Against a Fourier shift by the true path: 1 % of the signal, 1 % of power at Nyquist."""
    motion = dataclasses.replace(STILL, drift_angst=13.0)
    config = dataclasses.replace(CLEAN, motion=motion, is_blurred=False)
    frames, truth = _render(few_atoms, config)
    ky, kx = np.fft.fftfreq(192, 2.0)[:, None], np.fft.rfftfreq(240, 2.0)
    inner = np.s_[24:-24, 24:-24]  # the shift by transforms is periodic, the movie is not
    for frame, (dx, dy) in zip(frames[1:], truth.motion.whole_angst[1:], strict=True):
        phase = np.exp(-2j * np.pi * (kx * dx + ky * dy))
        moved = np.fft.irfft2(np.fft.rfft2(frames[0]) * phase, s=frames[0].shape)
        difference = (frame - moved)[inner]
        assert difference.std() < 0.02 * frame[inner].std()
    high = _ring_power(frames, 0.2, 0.25).sum(-1)
    np.testing.assert_allclose(high[1:] / high[0], 1.0, atol=0.02)


def test_motion_during_a_frame_blurs_it(few_atoms):
    """By sin(x) / x along the motion; 3 % of the signal."""
    motion = dataclasses.replace(STILL, drift_angst=12.0)
    config = dataclasses.replace(CLEAN, motion=motion)
    blurred, truth = _render(few_atoms, config)
    sharp, _ = _render(few_atoms, dataclasses.replace(config, is_blurred=False))
    moved = truth.motion.during_angst(0)
    assert np.hypot(*moved) > 5
    ky, kx = np.fft.fftfreq(192, 2.0)[:, None], np.fft.rfftfreq(240, 2.0)
    transfer = np.sinc(kx * moved[0] + ky * moved[1])
    expected = np.fft.irfft2(np.fft.rfft2(sharp[0]) * transfer, s=sharp[0].shape)
    inner = np.s_[24:-24, 24:-24]
    assert (blurred[0] - expected)[inner].std() < 0.03 * expected[inner].std()
    assert blurred[0][inner].std() < 0.95 * sharp[0][inner].std()


def test_damage_follows_the_critical_exposure(few_atoms):
    field = dataclasses.replace(QUIET, dose_e_per_angst2=16.0)
    config = dataclasses.replace(CLEAN, field=field, is_damaged=True)
    frames = np.stack(list(_expected(few_atoms, config)))
    for low, high in ((0.08, 0.09), (0.14, 0.15), (0.2, 0.21)):
        power = _ring_power(frames, low, high).sum(-1)
        # from the middle of the first frame, 2 e/Å^2, to that of the last, 14
        left = float(remaining_amplitude(np.array((low + high) / 2), 12.0, 300.0))
        assert float(np.sqrt(power[3] / power[0])) == pytest.approx(left, rel=0.03)


def _expected(atoms, config):
    """Expected counts, rounded to a thousandth: from a detector that counts each 1000 times."""
    truth = draw_movie(config, 0, 2 * radius_angst(atoms))
    renderer = prepare_movie_renderer(atoms, config)
    detector = detector_of(config)
    scaled = dataclasses.replace(
        detector, response=detector.response * np.float32(1000), hot=detector.hot
    )
    for frame in render_frames(renderer, config, truth, scaled):
        yield frame / 1000.0


def test_counts_are_poisson_about_the_dose_times_the_response(few_atoms):
    config = dataclasses.replace(
        CONFIG,
        field=dataclasses.replace(
            CONFIG.field,
            particles_per_micrograph=0,
            ice_thickness_angst=0.0,
            gradient=0.0,
            dose_e_per_angst2=20.0,
        ),
    )
    frames, _ = _render(few_atoms, config)
    detector = detector_of(config)
    expected = 5.0 * 4.0 * detector.response + detector.hot
    total = frames.sum()
    assert total == pytest.approx(4 * expected.sum(), abs=4 * np.sqrt(total))
    alive = expected > 0
    chi2 = np.mean((frames[:, alive] - expected[alive]) ** 2 / expected[alive])
    assert chi2 == pytest.approx(1.0, abs=4 * np.sqrt(2 / frames.size))
    assert not frames[:, ~alive].any()


def test_water_remembers_at_low_frequency_and_forgets_at_high(few_atoms):
    """Correlation of neighbouring frames, exp(-rate k^2); 4 errors of 1/sqrt(coefficients)."""
    field = dataclasses.replace(
        QUIET, ice_thickness_angst=300.0, particles_per_micrograph=0, dose_e_per_angst2=12.0
    )
    config = dataclasses.replace(CLEAN, field=field)
    frames = np.stack(list(_expected(few_atoms, config)))
    k = np.hypot(*np.meshgrid(*[np.fft.fftfreq(n, 2.0) for n in frames.shape[:0:-1]]))
    transforms = np.fft.fft2(frames)
    for low, high in ((0.05, 0.09), (0.12, 0.15), (0.2, 0.24)):
        ring = (k > low) & (k < high)
        a, b = transforms[0][ring], transforms[1][ring]
        found = (a * b.conj()).real.sum() / np.sqrt((abs(a) ** 2).sum() * (abs(b) ** 2).sum())
        rate = stirring_rate_angst2(3.0)
        expected = np.average(np.exp(-rate * k[ring] ** 2), weights=abs(a) ** 2)
        assert found == pytest.approx(expected, abs=4 / np.sqrt(ring.sum() / 2) + 0.02)


def test_truth_is_declared_and_shifts_move_frames_back():
    truth = draw_movie(CONFIG, 1, 100.0)
    for table in (truth.micrograph, truth.particles):
        assert set(table.columns) <= set(COLUMNS)
    row = truth.micrograph.row(0, named=True)
    np.testing.assert_allclose(row["frame_shift_x_angst"], -truth.motion.whole_angst[:, 0])
    assert row["travel_angst"] == pytest.approx(truth.motion.travel_angst())
    assert truth.particles["micrograph_id"].unique().to_list() == [1]


def test_a_movie_alone_equals_the_one_in_its_set_and_others_differ(few_atoms):
    one, _ = _render(few_atoms, CONFIG, 1)
    same, _ = _render(few_atoms, CONFIG, 1)
    other, _ = _render(few_atoms, CONFIG, 0)
    np.testing.assert_array_equal(one, same)
    assert (one != other).mean() > 0.3


def test_contamination_moves_along_and_takes_particles_aside(few_atoms):
    contamination = ContaminationConfig(
        carbon_probability=1.0, hole_radius_angst=300.0, crystals=0, aggregates=0, tears=0
    )
    config = dataclasses.replace(
        CONFIG, field=dataclasses.replace(CONFIG.field, contamination=contamination)
    )
    truths = [draw_movie(config, index, 60.0) for index in range(4)]
    assert sum(truth.contaminated.height for truth in truths) > 0
    assert sum(truth.particles.height for truth in truths) > 0
    frames, truth = _render(few_atoms, config)
    total = frames.sum(0)
    assert total[truth.contamination.mask == 1].mean() < total[truth.contamination.mask == 0].mean()


def test_empty_movies_have_no_particles():
    config = dataclasses.replace(CONFIG, empty_probability=1.0)
    assert draw_movie(config, 0, 60.0).particles.height == 0


def test_raw_frames_hold_the_counts_less_what_falls_together():
    counts = np.random.default_rng(0).poisson(0.8, (40, 48)).astype(np.uint16)
    raw = split_into_raw_frames(counts, 20, np.random.default_rng(1))
    assert len(raw) == 20
    summed = np.zeros(counts.shape, int)
    for rows, columns, parts in raw:
        places = rows * 48 + columns
        assert len(np.unique(places)) == len(places)
        assert parts.shape == (2, len(rows))
        assert parts.max(initial=0) <= 3
        np.add.at(summed, (rows, columns), 1)
    assert (summed <= counts).all()
    # of n counts in a pixel about n (n - 1) / 2 / 20 fall together
    lost = (counts * (counts - 1.0) / 40).sum()
    assert counts.sum() - summed.sum() == pytest.approx(lost, abs=4 * np.sqrt(lost) + 5)


def test_frames_come_one_at_a_time(few_atoms):
    truth = draw_movie(CONFIG, 0, 60.0)
    renderer = prepare_movie_renderer(few_atoms, CONFIG)
    frames = render_frames(renderer, CONFIG, truth, detector_of(CONFIG))
    first = next(itertools.islice(frames, 1))
    assert first.shape == (192, 240)
    assert first.dtype == np.uint16


def test_a_movie_needs_frames():
    with pytest.raises(ValueError, match="a movie needs frames"):
        MovieConfig(CONFIG.field, n_frames=0)
