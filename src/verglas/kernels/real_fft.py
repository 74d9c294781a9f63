"""Transforms of real arrays by scipy's pocketfft, without the rest of `scipy.fft`.

That package imports special functions, array interfaces of other libraries and documentation
tools: 0.12 s, a tenth of a short command. What transforms is one compiled module of it, which is
loaded alone here, under its own name; where a version of scipy has none, `scipy.fft` is used.
"""

import sys
from collections.abc import Callable
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["irfftn", "rfftn"]

_MODULE = "scipy.fft._pocketfft.pypocketfft"
_OVER_N = 2  # how pocketfft is told to divide by the number of values

Real = NDArray[np.float32]
Complex = NDArray[np.complex64]


def rfftn(arrays: Real, n_axes: int) -> Complex:
    """Transform the last axes, as `scipy.fft.rfftn` does.

    Args:
        arrays: any shape.
        n_axes: how many.
    """
    forward, _ = _transforms()
    return forward(arrays, tuple(range(arrays.ndim - n_axes, arrays.ndim)))


def irfftn(arrays_ft: Complex, n_axes: int) -> Real:
    """Undo `rfftn` for a last axis of even length.

    Args:
        arrays_ft: as `rfftn` gives it.
        n_axes: how many.
    """
    _, backward = _transforms()
    return backward(arrays_ft, tuple(range(arrays_ft.ndim - n_axes, arrays_ft.ndim)))


@cache
def _transforms() -> tuple[Callable[..., Complex], Callable[..., Real]]:
    pocketfft = sys.modules.get(_MODULE) or _load()
    if pocketfft is None:
        import scipy.fft

        return lambda a, axes: scipy.fft.rfftn(a, axes=axes), lambda a, axes: scipy.fft.irfftn(
            a, axes=axes
        )
    return (
        lambda a, axes: pocketfft.r2c(a, axes, True),
        lambda a, axes: pocketfft.c2r(a, axes, 2 * (a.shape[-1] - 1), False, _OVER_N),
    )


def _load() -> Any | None:
    scipy = find_spec("scipy")
    if scipy is None or scipy.origin is None:
        return None
    folder = Path(scipy.origin).parent / "fft" / "_pocketfft"
    spec = PathFinder.find_spec(_MODULE, [str(folder)])
    if spec is None or spec.loader is None:
        return None
    module = module_from_spec(spec)
    sys.modules[_MODULE] = module  # so that scipy.fft takes the same one
    spec.loader.exec_module(module)
    return module
