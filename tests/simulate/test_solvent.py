import numpy as np
import pytest

from verglas.simulate.atoms import Atoms
from verglas.simulate.potential import potential_volume
from verglas.simulate.scattering import VOLT_ANGST2, WATER_PER_ANGST3, water_amplitude_angst
from verglas.simulate.solvent import displaced_ice

BOX, PIXEL = 48, 1.25
ICE_VOLT = float(water_amplitude_angst(np.zeros(1))[0]) * WATER_PER_ANGST3 * VOLT_ANGST2


def packed(inner_angst, outer_angst, centre_angst=(0.0, 0.0, 0.0)):
    """Carbon atoms 1.5 Å apart, between two spheres."""
    axis = np.arange(-30, 30, 1.5)
    places = np.stack(np.meshgrid(axis, axis, axis), -1).reshape(-1, 3)
    radius = np.linalg.norm(places, axis=1)
    chosen = (radius >= inner_angst) & (radius <= outer_angst)
    return Atoms.from_arrays(places[chosen] + np.asarray(centre_angst), 6)


def distances(centre_angst=(0.0, 0.0, 0.0)):
    index = np.indices((BOX, BOX, BOX))[::-1] - BOX // 2
    return np.linalg.norm(index * PIXEL - np.reshape(centre_angst, (3, 1, 1, 1)), axis=0)


def test_ice_is_that_of_water_inside_a_ball_and_nothing_outside():
    centre = (4.0, -3.0, 2.0)
    ice = displaced_ice(packed(0, 14, centre), box_px=BOX, pixel_size_angst=PIXEL).numpy()
    r = distances(centre)
    assert 4.0 < ICE_VOLT < 5.0  # 4.5 V for neutral atoms at 0.93 g/cm^3
    np.testing.assert_allclose(ice[r < 10], ICE_VOLT, rtol=0.02)
    assert np.abs(ice[r > 20]).max() < 0.02 * ICE_VOLT


def test_edge_is_where_water_begins():
    ice = displaced_ice(packed(0, 14), box_px=BOX, pixel_size_angst=PIXEL).numpy()
    radius = (3 * ice.sum() * PIXEL**3 / (4 * np.pi * ICE_VOLT)) ** (1 / 3)
    assert radius == pytest.approx(14 + 1.9, abs=0.8)  # the radius of carbon beyond its centres


def test_water_fills_a_wide_hole():
    ice = displaced_ice(packed(10, 18), box_px=BOX, pixel_size_angst=PIXEL).numpy()
    assert np.abs(ice[distances() < 5]).max() < 0.05 * ICE_VOLT


def test_volume_in_bulk_ice_is_the_one_in_vacuum_less_the_ice():
    atoms, grid = packed(0, 8), {"box_px": BOX, "pixel_size_angst": PIXEL}
    difference = potential_volume(atoms, **grid, solvent="vacuum") - potential_volume(
        atoms, **grid, solvent="bulk"
    )
    np.testing.assert_allclose(difference, displaced_ice(atoms, **grid), atol=2e-3)


def test_resolution_limit_holds_for_ice_as_for_atoms():
    atoms, grid = packed(0, 8), {"box_px": BOX, "pixel_size_angst": PIXEL}
    volume = potential_volume(atoms, **grid, solvent="bulk", resolution_angst=10.0)
    power = np.abs(np.fft.rfftn(volume.numpy())) ** 2
    axes = np.fft.fftfreq(BOX, PIXEL), np.fft.fftfreq(BOX, PIXEL), np.fft.rfftfreq(BOX, PIXEL)
    k = np.sqrt(sum(a**2 for a in np.meshgrid(*axes, indexing="ij")))
    assert power[k > 0.11].sum() < 1e-6 * power.sum()
