"""The engine on another device: nothing is left on the processor, and the maps are the same."""

import dataclasses

import pytest
import torch

from tests.algorithms.em.model_images import PIXEL_ANGST
from tests.algorithms.em.refining import blob_particles, image_power, iterate
from tests.elsewhere import elsewhere
from tests.tolerance import assert_close_to_peak, assert_exact
from verglas.algorithms.devices import to_device
from verglas.algorithms.em.refine_start import initial_state
from verglas.algorithms.em.refine_state import RefineConfig
from verglas.kernels.fourier import rfft3
from verglas.kernels.fsc import fourier_shell_correlation

BOX = 24


def _map_fsc(a, b):
    n_shells = len(a) // 2
    return fourier_shell_correlation(rfft3(a[None]), rfft3(b[None]), n_shells=n_shells)[0]


def test_a_tensor_elsewhere_does_not_meet_one_here():
    with elsewhere() as device:
        there = torch.zeros(3, device=device)
        with pytest.raises(RuntimeError, match="two devices"):
            there + torch.ones(3)
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        assert_exact((there + torch.ones(3).to(device)).cpu(), torch.ones(3))


def test_dataclasses_are_moved_with_all_that_they_hold():
    state = initial_state(
        RefineConfig(BOX, PIXEL_ANGST, 0.7 * BOX * PIXEL_ANGST), torch.rand(BOX, BOX, BOX),
        torch.ones(1, BOX // 2),
    )  # fmt: skip
    with elsewhere() as device:
        there = to_device(state, device)
        assert there.half_maps.device == there.noise_power.device == device
        assert there.iteration == state.iteration
        assert_exact(to_device(there, "cpu").half_maps, state.half_maps)


@pytest.mark.parametrize("symmetry", ["O", "C1"])
def test_iterations_elsewhere_make_the_same_maps(symmetry):
    """30 particles, SNR 0.5: on grids, from grids, and in the vicinity of known poses."""
    particles = blob_particles(symmetry, 30, box=BOX, snr=0.5)
    config = RefineConfig(BOX, PIXEL_ANGST, 0.78 * BOX * PIXEL_ANGST, symmetry)
    state = initial_state(config, particles.truth, image_power(particles, config))
    known = (None, None)
    for n_polished, jumped in ((0, 1.0), (1, 1.0), (3, 0.0)):
        state = dataclasses.replace(state, n_polished=n_polished, jumped=jumped)
        here, found = iterate(particles, config, state, known)
        with elsewhere() as device:
            there, elsewhere_found = iterate(particles, config, state, known, device=device)
        for half in (0, 1):
            fsc = _map_fsc(here.half_maps[half], there.half_maps[half])
            assert float(fsc[1 : here.shell + 1].min()) > 0.999
            moved = found[half].shifts_angst - elsewhere_found[half].shifts_angst
            assert float(moved.abs().median()) < 0.1
        assert_close_to_peak(there.noise_power, here.noise_power, 1e-3)
        state, known = here, tuple(found)
