"""Name every tolerance that tests use (docs/conventions.md, section 9).

Each is a set of keyword arguments for `numpy.testing.assert_allclose` and
`torch.testing.assert_close`, except those that are fractions of the largest value.
"""

from typing import Any

import numpy as np

F64 = {"rtol": 1e-10, "atol": 1e-12}
"""float64 against float64."""

F32 = {"rtol": 1e-5, "atol": 1e-6}
"""Elementwise float32."""

FFT32 = 1e-5
"""Fraction of the largest value: transforms, shifts and filters in float32."""

CTF32 = {"rtol": 0.0, "atol": 1e-3}
"""CTF in float32; measured 1.3e-4 at 1 Å pixel and 3 µm, 9e-4 at 0.5 Å and 5 µm."""

INTERP = 1e-2
"""Fraction of the peak: interpolation, projection of smooth objects; or pixels."""

STAT = 4.0
"""Standard errors, which the test computes: random estimates with a fixed seed."""


def assert_exact(actual: Any, expected: Any) -> None:
    """Compare integers, copies and metadata: equal, NaN equal to NaN."""
    np.testing.assert_array_equal(np.asarray(actual), np.asarray(expected))


def assert_close_to_peak(actual: Any, expected: Any, fraction: float = FFT32) -> None:
    """Compare two arrays, real or complex, by the largest value of the expected one.

    Args:
        actual, expected: numpy arrays or CPU tensors of one shape.
        fraction: `FFT32` or `INTERP`.
    """
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"shapes {actual.shape} and {expected.shape}"
    peak = np.abs(expected).max(initial=0.0)
    worst = np.abs(actual - expected).max(initial=0.0)
    assert worst <= fraction * peak, f"worst difference {worst:.3g}, peak {peak:.3g}"
