"""Processor time of a fit, for benchmarks."""

import time

import numpy as np
import torch
from numpy.typing import NDArray

from verglas.algorithms.ctf.config import CtfFitConfig
from verglas.algorithms.ctf.fit import fit_ctf
from verglas.algorithms.ctf.summary import CtfFit

__all__ = ["time_fit"]


def time_fit(
    image: NDArray[np.float32],
    *,
    pixel_size_angst: float,
    voltage_kv: float,
    spherical_aberration_mm: float,
    amplitude_contrast: float,
    config: CtfFitConfig,
) -> tuple[CtfFit, float]:
    """Fit an image on one thread.

    Args:
        image: `[h, w]`.
        pixel_size_angst, voltage_kv, spherical_aberration_mm, amplitude_contrast: as `fit_ctf`.
        config: method and search ranges.

    Returns:
        The fit, and the seconds of processor time that it took.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        start = time.process_time()
        fit = fit_ctf(
            torch.from_numpy(image),
            pixel_size_angst=pixel_size_angst,
            voltage_kv=voltage_kv,
            spherical_aberration_mm=spherical_aberration_mm,
            amplitude_contrast=amplitude_contrast,
            config=config,
        )
        return fit, time.process_time() - start
    finally:
        torch.set_num_threads(threads)
