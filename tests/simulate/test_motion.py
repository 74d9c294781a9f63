import numpy as np
import pytest

from verglas.simulate._movie_warp import warp_frame
from verglas.simulate.motion import MotionConfig, draw_motion

SIZE = (1200.0, 900.0)


def _draw(seed=0, n_frames=30, **changed):
    return draw_motion(
        MotionConfig(**changed),
        n_frames=n_frames,
        frame_dose_e_per_angst2=1.0,
        size_angst=SIZE,
        rng=np.random.default_rng(seed),
    )


def test_nothing_is_displaced_in_the_first_frame():
    motion = _draw()
    _, _, field = motion.grid()
    np.testing.assert_allclose(field[0], 0.0, atol=1e-12)


def test_the_whole_field_goes_as_far_as_asked():
    assert _draw(jitter_angst=0.0, drift_angst=20.0).travel_angst() == pytest.approx(20.0)
    still = _draw(jitter_angst=0.0, drift_angst=0.0, local_angst=0.0)
    assert still.travel_angst() == 0.0
    assert not still.bend_angst.any()


@pytest.mark.parametrize("seed", range(4))
def test_motion_is_early_and_fast(seed):
    """Of the path more than half is gone after a fifth of the exposure."""
    motion = _draw(seed, jitter_angst=0.0)
    steps = np.hypot(*np.diff(motion.whole_angst, axis=0).T)
    assert steps[:6].sum() > 0.5 * steps.sum()
    assert motion.largest_step_angst() == pytest.approx(steps[0])


@pytest.mark.parametrize("seed", range(4))
def test_places_move_beside_the_field_as_far_as_asked(seed):
    """Doming 0.8 and the rest 0.6 of it, added at random: their squares add on average."""
    motion = _draw(seed, local_angst=3.0)
    _, _, field = motion.grid(16)
    local = field[-1] - motion.whole_angst[-1][:, None, None]
    assert 1.5 < np.sqrt(np.square(local).sum(0).mean()) < 4.5


def test_a_dome_s_sides_move_against_each_other():
    motion = _draw(2, local_angst=3.0)
    at = motion.at(np.array([100.0, 1100.0]), np.array([450.0, 450.0]))
    local = at[-1] - motion.whole_angst[-1][:, None]
    assert abs(local[0, 0] - local[0, 1]) > 1.5


def test_frames_are_sampled_where_the_motion_puts_them():
    """Nodes that hold their own x and y give back the place that a pixel shows."""
    motion, pixel, first = _draw(1, drift_angst=15.0, local_angst=4.0), 3.75, (24, 20)
    height, width = 240, 320
    y, x = np.mgrid[: 2 * (height + 48), : 2 * (width + 40)].astype(np.float32)
    out_x, out_y = np.empty((2, height, width), np.float32)
    for out, nodes in ((out_x, x), (out_y, y)):
        warp_frame(nodes, out, motion.whole_angst[-1] / pixel, motion.bend_angst[-1] / pixel, first)
    source_x, source_y = out_x / 2 - first[1], out_y / 2 - first[0]
    displaced = motion.at(source_x * pixel, source_y * pixel)[-1] / pixel
    rows, columns = np.mgrid[:height, :width]
    # a feature of the first frame at the source is seen at this pixel
    np.testing.assert_allclose(source_x + displaced[0], columns, atol=0.01)
    np.testing.assert_allclose(source_y + displaced[1], rows, atol=0.01)


def test_bad_motion_is_refused():
    with pytest.raises(ValueError, match="must not be negative"):
        MotionConfig(drift_angst=-1.0)
    with pytest.raises(ValueError, match="decay must be positive"):
        MotionConfig(decay_e_per_angst2=0.0)


def test_one_frame_does_not_move():
    motion = _draw(n_frames=1)
    assert motion.travel_angst() == motion.largest_step_angst() == 0.0
