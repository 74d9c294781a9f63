"""Cubic B-spline sampling."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from tests.tolerance import F32, F64
from verglas.kernels.interp import (
    bspline_response,
    sample_cubic,
    sample_cubic_gradient,
    sample_cubic_lattice,
)


def volumes(shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def points(batch, n, shape, seed=1):
    unit = torch.rand(
        batch, n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    return unit * torch.tensor(shape[::-1], dtype=torch.float64) * 2 - 3


@pytest.mark.parametrize("shape", [(6, 7, 8), (5, 5, 5)])
@pytest.mark.parametrize("batch", [1, 3])
def test_values_equal_scipy_spline_with_periodic_boundary(shape, batch):
    coefficients, where = volumes((batch, *shape)), points(batch, 40, shape)
    expected = [
        ndimage.map_coordinates(
            c.numpy(), p.numpy().T[::-1], order=3, mode="grid-wrap", prefilter=False
        )
        for c, p in zip(coefficients, where, strict=True)
    ]
    np.testing.assert_allclose(sample_cubic(coefficients, where), np.stack(expected), **F64)


def test_complex_values_equal_real_and_imaginary_parts():
    real, imaginary = volumes((2, 6, 6, 6), seed=2), volumes((2, 6, 6, 6), seed=3)
    where = points(2, 20, (6, 6, 6))
    values = sample_cubic(torch.complex(real, imaginary), where)
    np.testing.assert_allclose(values.real, sample_cubic(real, where), **F64)
    np.testing.assert_allclose(values.imag, sample_cubic(imaginary, where), **F64)


def test_gradient_equals_central_differences():
    coefficients, where = volumes((2, 6, 7, 8)), points(2, 30, (6, 7, 8))
    values, gradient = sample_cubic_gradient(coefficients, where)
    np.testing.assert_allclose(values, sample_cubic(coefficients, where), **F64)
    step = 1e-5
    for axis in range(3):
        move = torch.zeros(3, dtype=torch.float64)
        move[axis] = step
        slope = (
            sample_cubic(coefficients, where + move) - sample_cubic(coefficients, where - move)
        ) / (2 * step)
        # central differences of a cubic are off by step^2 and rounding / step
        np.testing.assert_allclose(gradient[..., axis], slope, rtol=0, atol=1e-8)


def test_compiled_loops_equal_the_torch_code():
    coefficients = torch.complex(volumes((2, 6, 7, 8)), volumes((2, 6, 7, 8), seed=5))
    where = points(2, 30, (6, 7, 8))
    values, gradient = sample_cubic_gradient(coefficients, where)
    coefficients.requires_grad_()
    tracked, tracked_gradient = sample_cubic_gradient(coefficients, where)
    assert tracked.requires_grad
    np.testing.assert_allclose(values, tracked.detach(), **F64)
    np.testing.assert_allclose(gradient, tracked_gradient.detach(), **F64)
    np.testing.assert_allclose(values, sample_cubic(coefficients, where).detach(), **F64)


def test_constant_coefficients_give_the_constant_everywhere():
    where = points(1, 50, (5, 6, 7)).float()
    values = sample_cubic(torch.full((1, 5, 6, 7), 2.5), where)
    np.testing.assert_allclose(values, 2.5, **F32)


def test_inputs_stay_untouched():
    coefficients, where = volumes((1, 4, 4, 4)), points(1, 5, (4, 4, 4))
    copies = coefficients.clone(), where.clone()
    sample_cubic_gradient(coefficients, where)
    assert torch.equal(coefficients, copies[0])
    assert torch.equal(where, copies[1])


def test_response_is_the_transform_of_the_kernel():
    # sampled finely, one unit pulse read by the sampler is the kernel itself
    n, fine = 16, 64
    pulse = torch.zeros(1, n, n, n, dtype=torch.float64)
    pulse[0, 0, 0, 0] = 1
    x = torch.arange(n * fine, dtype=torch.float64) / fine
    where = torch.stack((x, torch.zeros_like(x), torch.zeros_like(x)), dim=-1)[None]
    kernel = sample_cubic(pulse, where)[0] / (2 / 3) ** 2
    transform = torch.fft.rfft(kernel).real[: n // 2 + 1] / fine
    expected = bspline_response(torch.arange(n // 2 + 1, dtype=torch.float64) / n)
    # the fine sampling aliases (1 / 64)^4
    np.testing.assert_allclose(transform, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("coefficients", "where"),
    [((4, 4, 4), (1, 2, 3)), ((1, 4, 4, 4), (2, 3)), ((2, 4, 4, 4), (1, 2, 3))],
)
def test_shapes_that_do_not_fit_raise(coefficients, where):
    with pytest.raises(ValueError, match=r"must be|batches"):
        sample_cubic(torch.zeros(coefficients), torch.zeros(where))


@pytest.mark.parametrize("tracked", [False, True])
def test_lattice_equals_its_points(tracked):
    coefficients = volumes((2, 6, 7, 8)).requires_grad_(tracked)
    origin, steps = volumes((2, 3), seed=8), volumes((2, 3, 3), seed=9)
    low, high = torch.tensor([-1.0, 0.0, 0.0]), torch.tensor([9.0, 6.0, 5.0])
    z, y, x = torch.meshgrid(*(torch.arange(n) for n in (3, 4, 5)), indexing="ij")
    index = torch.stack((x, y, z), dim=-1).reshape(-1, 3).double()
    where = origin[:, None] + index @ steps
    inside = ((where >= low) & (where <= high)).all(-1)
    expected = torch.where(inside, sample_cubic(coefficients, where), 0.0)
    got = sample_cubic_lattice(
        coefficients, origin_px=origin, steps_px=steps, low_px=low, high_px=high, shape=(3, 4, 5)
    )
    assert 0.1 < inside.double().mean() < 0.9
    np.testing.assert_allclose(got.detach().reshape(2, -1), expected.detach(), **F64)
