import numpy as np
import polars as pl
import pytest

from verglas.simulate.contamination import (
    LABELS,
    ContaminationConfig,
    contaminate,
    contrast_factor,
    draw_contamination,
    label_at,
    scaled_contamination,
)
from verglas.simulate.particles import Optics

OPTICS = Optics(2.0)
SHAPE = (256, 320)
NOTHING = {"carbon_probability": 0.0, "crystals": 0.0, "aggregates": 0.0, "tears": 0.0}
ROW = pl.DataFrame(
    {
        "defocus_u_angst": [15000.0],
        "defocus_v_angst": [14800.0],
        "defocus_angle_deg": [20.0],
        "phase_shift_deg": [0.0],
    }
)


def _draw(seed=0, **changed):
    config = ContaminationConfig(**(NOTHING | changed))
    return draw_contamination(config, shape=SHAPE, optics=OPTICS, rng=np.random.default_rng(seed))


def _only(label, seed=0):
    changed = {
        "carbon": {"carbon_probability": 1.0, "hole_radius_angst": 1000.0},
        "crystal": {"crystals": 2.0},
        "aggregate": {"aggregates": 2.0},
        "tear": {"tears": 2.0},
    }[label]
    return _draw(seed, **changed)


def _noisy(contamination, electrons=80.0, seed=5):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(electrons, SHAPE).astype(np.float32)
    return counts, contaminate(counts, contamination, micrograph=ROW, optics=OPTICS, rng=rng)


def test_clean_fields_are_left_as_they_are():
    contamination = _draw()
    counts, same = _noisy(contamination)
    assert not contamination.mask.any()
    assert contamination.objects.height == 0
    np.testing.assert_array_equal(counts, same)


@pytest.mark.parametrize("label", LABELS[1:])
def test_the_mask_covers_what_is_drawn_and_nothing_else(label):
    contamination = _only(label)
    covered = contamination.mask == LABELS.index(label)
    assert set(np.unique(contamination.mask)) == {0, LABELS.index(label)}
    assert contamination.objects["label"].unique().to_list() == [label]
    changed = np.abs(np.log(contamination.transmission))
    assert np.median(changed[covered]) > 10 * np.median(changed[~covered])
    assert changed[~covered].mean() < 0.1 * changed[covered].mean()


@pytest.mark.parametrize(
    ("label", "darker"), [("carbon", 1), ("crystal", 1), ("aggregate", 1), ("tear", -1)]
)
def test_matter_darkens_and_a_tear_is_bright(label, darker):
    contamination = _only(label)
    _, dirty = _noisy(contamination)
    covered = contamination.mask > 0
    # 80 electrons, thousands of pixels: 0.5 is far beyond the error of a mean
    assert darker * (dirty[~covered].mean() - dirty[covered].mean()) > 0.5


def test_equal_generators_draw_the_same_and_others_do_not():
    one, same, other = (_only("crystal", seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.phases, same.phases)
    np.testing.assert_array_equal(one.mask, same.mask)
    assert (one.mask != other.mask).any()


def test_electrons_stay_poisson_distributed():
    """Half of the electrons taken at random: variance over mean stays 1, 4 errors of it."""
    contamination = _only("crystal")
    factor = contrast_factor(contamination, micrograph=ROW, optics=OPTICS, b_factor_angst2=60.0)
    _, dirty = _noisy(contamination)
    expected = 80.0 * factor
    fano = np.mean((dirty - expected) ** 2 / expected)
    assert fano == pytest.approx(1.0, abs=4 * np.sqrt(2 / dirty.size) + 0.01)


def test_carbon_shows_rings_of_the_contrast_transfer():
    """Power at the first zero of the CTF is far below that of its first maximum."""
    contamination = _draw(carbon_probability=1.0, hole_radius_angst=10.0)
    inside = contamination.mask == 1
    assert inside.mean() > 0.9
    factor = contrast_factor(contamination, micrograph=ROW, optics=OPTICS, b_factor_angst2=0.0)
    tile = factor[:256, :256] - factor[:256, :256].mean()
    power = np.abs(np.fft.fft2(tile * np.hanning(256)[:, None] * np.hanning(256))) ** 2
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(256, 2.0), np.fft.fftfreq(256, 2.0)))
    wavelength, defocus = 0.019687, 14900.0
    chi = np.pi * wavelength * defocus * k**2 - np.pi / 2 * 2.7e7 * wavelength**3 * k**4
    chi = chi + np.arcsin(0.1)
    zero = (np.abs(np.sin(chi)) < 0.1) & (k > 0.05) & (k < 0.12)
    top = (np.abs(np.sin(chi)) > 0.9) & (k > 0.05) & (k < 0.12)
    assert power[top].mean() > 5 * power[zero].mean()


def test_lattice_is_there_where_pixels_can_show_it():
    fine = Optics(1.0)
    rng = np.random.default_rng(1)
    config = ContaminationConfig(**(NOTHING | {"crystals": 3.0}))
    contamination = draw_contamination(config, shape=(320, 320), optics=fine, rng=rng)
    power = np.abs(np.fft.fft2(contamination.phases)) ** 2
    k = np.hypot(*np.meshgrid(*[np.fft.fftfreq(n, 1.0) for n in power.shape[::-1]]))
    ring = power[np.abs(k - 1 / 3.66) < 0.004]
    beside = power[np.abs(k - 1 / 3.2) < 0.004]
    assert ring.max() > 50 * beside.max()


def test_the_amount_scales_numbers_and_none_is_clean():
    assert scaled_contamination(0.0) is None
    assert scaled_contamination(1.0) == ContaminationConfig()
    assert scaled_contamination(4.0).carbon_probability == 1.0
    assert scaled_contamination(0.5).crystals == 0.5 * ContaminationConfig().crystals


def test_labels_are_looked_up_at_places():
    mask = np.zeros((10, 20), np.uint8)
    mask[4, 7] = 2
    x, y = np.array([14.0, 15.9, 14.0, -5.0, 900.0]), np.array([8.0, 8.0, 10.1, 0.0, 900.0])
    assert label_at(mask, x, y, 2.0).tolist() == [2, 0, 0, 0, 0]


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match=r"of one size: got \(8, 8\)"):
        contaminate(
            np.zeros((8, 8)), _draw(), micrograph=ROW, optics=OPTICS, rng=np.random.default_rng(0)
        )
    with pytest.raises(ValueError, match="probability"):
        ContaminationConfig(carbon_probability=1.5)
    with pytest.raises(ValueError, match="negative"):
        ContaminationConfig(crystals=-1.0)


def test_a_crystal_counts_from_where_it_can_be_seen():
    """Ice of 30 Å takes 1 % of the electrons; thinner rims are no dirt."""
    lost = -np.log(_only("crystal").transmission) * 3200.0
    covered = _only("crystal").mask > 0
    assert lost[covered].min() > 29.0
    assert lost[~covered].max() < 31.0
