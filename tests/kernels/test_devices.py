"""Kernels follow the device of their first tensor and agree between devices.

The default run uses the `meta` device, which has shapes but no values: a kernel that mixes
in a CPU tensor fails there as it would on a GPU. The GPU run compares values.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.tolerance import assert_close_to_peak
from verglas.kernels import crop, ctf, filters, fourier, fsc, healpix, peaks, so3, spectrum
from verglas.kernels.symmetry import symmetrise_volume, symmetry_operators

IMAGES = torch.randn(2, 32, 32, generator=torch.Generator().manual_seed(0))
VOLUMES = torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(1))
ROTATIONS = so3.random_rotations(5, generator=torch.Generator().manual_seed(2))
POWER = torch.rand(2, 32, 17, generator=torch.Generator().manual_seed(3))
FREQUENCIES = fourier.rfft_grid((32, 32), 1.5)


def _optics(device: torch.device) -> dict[str, Tensor]:
    return {
        "defocus_u_angst": torch.tensor([12000.0, 9000.0], device=device),
        "defocus_v_angst": torch.tensor([11000.0, 9000.0], device=device),
        "defocus_angle_deg": torch.tensor([30.0, 0.0], device=device),
    }


def _ctf(k: Tensor) -> Tensor:
    lens = {"voltage_kv": 300.0, "spherical_aberration_mm": 2.7, "amplitude_contrast": 0.1}
    shift = torch.zeros(2, device=k.device)
    return ctf.evaluate_ctf(k, **_optics(k.device), **lens, phase_shift_deg=shift)


def _equivalent(k: Tensor) -> Tensor:
    lens = {"voltage_kv": 300.0, "spherical_aberration_mm": 2.7}
    return ctf.equivalent_frequencies(k, **_optics(k.device), **lens)


def _shift(x: Tensor) -> Tensor:
    shift = torch.tensor([[1.0, 2.0], [0.5, -3.0]], device=x.device)
    return fourier.fourier_shift(fourier.rfft2(x), shift, shape=(32, 32), pixel_size_angst=1.5)


def _pass(x: Tensor) -> Tensor:
    return filters.band_pass(
        x, low_resolution_angst=20.0, high_resolution_angst=5.0, pixel_size_angst=1.5
    )


# kernels that need no values to know their shapes
SHAPED: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
    "rfft2": (fourier.rfft2, IMAGES),
    "fourier_shift": (_shift, IMAGES),
    "fourier_resize2": (lambda x: fourier.fourier_resize2(x, shape=(20, 21)), IMAGES),
    "fourier_resize3": (lambda x: fourier.fourier_resize3(x, shape=(9, 24, 15)), VOLUMES),
    "evaluate_ctf": (_ctf, FREQUENCIES),
    "equivalent_frequencies": (_equivalent, FREQUENCIES),
    "band_pass": (_pass, IMAGES),
    "gaussian": (lambda x: filters.gaussian(x, sigma_angst=2, pixel_size_angst=1), VOLUMES),
    "matrix_to_euler": (so3.matrix_to_euler, ROTATIONS),
    "euler_to_matrix": (lambda r: so3.euler_to_matrix(so3.matrix_to_euler(r)), ROTATIONS),
    "matrix_to_quaternion": (so3.matrix_to_quaternion, ROTATIONS),
    "mean_rotation": (lambda r: so3.mean_rotation(r[None]), ROTATIONS),
    "rotation_from_vector": (lambda r: so3.rotation_from_vector(r[:, 0]), ROTATIONS),
    "pose_distance_deg": (
        lambda r: so3.pose_distance_deg(r, r.flip(0), symmetry_operators("D3")),
        ROTATIONS,
    ),
    "healpix_pixels": (
        lambda r: healpix.healpix_pixels(90 * (1 + r[:, 0, :2]), order=3),
        ROTATIONS,
    ),
    "refine_orientation_grid": (lambda r: so3.refine_orientation_grid(r, 2), ROTATIONS),
    "average_periodogram": (lambda x: spectrum.average_periodogram(x, tile_px=16), IMAGES),
    "box_background": (lambda p: spectrum.box_background(p, width_px=5), POWER),
}

# kernels whose work or shapes depend on values
VALUED: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
    "fourier_shell_correlation": (
        lambda v: fsc.fourier_shell_correlation(
            fourier.rfft3(v), fourier.rfft3(v.flip(1) + v), n_shells=9
        ),
        VOLUMES,
    ),
    "resolution_at": (
        lambda p: fsc.resolution_at(p[:, 0], 0.1, box=32, pixel_size_angst=1.0),
        POWER,
    ),
    "whiten": (filters.whiten, IMAGES),
    "radial_average": (spectrum.radial_average, POWER),
    "spline_background": (lambda p: spectrum.spline_background(p[:, 0], n_knots=3), POWER),
    "symmetrise_volume": (
        lambda v: symmetrise_volume(v, symmetry_operators("D3")),
        VOLUMES,
    ),
    "normalise_boxes": (lambda x: crop.normalise_boxes(x, radius_px=10), IMAGES),
    "window_boxes": (
        lambda x: crop.window_boxes(x[0], torch.tensor([[3, 4], [-5, 40]]), box=8)[0],
        IMAGES,
    ),
    "find_peaks": (
        lambda x: peaks.find_peaks(x, min_distance_px=4, threshold=0.5).position_px,
        IMAGES,
    ),
}


@pytest.mark.parametrize("name", SHAPED)
def test_results_stay_on_the_device_of_the_argument(name):
    kernel, argument = SHAPED[name]
    expected = kernel(argument)
    result = kernel(argument.to("meta"))
    assert result.device.type == "meta"
    assert result.shape == expected.shape
    assert result.dtype == expected.dtype


@pytest.mark.gpu
@pytest.mark.parametrize("name", SHAPED | VALUED)
def test_gpu_gives_what_the_cpu_gives(name):
    kernel, argument = (SHAPED | VALUED)[name]
    expected = kernel(argument)
    result = kernel(argument.cuda())
    assert result.device.type == "cuda"
    if result.is_floating_point() or result.is_complex():
        finite = torch.isfinite(expected.abs())
        assert_close_to_peak(result.cpu()[finite], expected[finite], 2e-5)
    else:
        assert torch.equal(result.cpu(), expected)
