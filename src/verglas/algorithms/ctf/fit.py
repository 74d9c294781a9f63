"""Estimate the CTF of a micrograph and say how far it can be trusted.

Tile periodogram, exhaustive search over defocus, astigmatism and phase shift, then a refinement
by one of four objectives that also gives standard errors. All four are then described in the
same way: rings along equal phase, slope of the defocus, signs of crystalline ice, and a check of
the microscope's constants.
"""

import math

import torch
from torch import Tensor

from verglas.algorithms.ctf.config import CtfFitConfig, CtfStart
from verglas.algorithms.ctf.correlation import refine_correlation
from verglas.algorithms.ctf.equiphase import refine_equiphase
from verglas.algorithms.ctf.optics import Optics
from verglas.algorithms.ctf.parametric import refine_parametric
from verglas.algorithms.ctf.ring_fit import RingFit
from verglas.algorithms.ctf.search import search_ctf
from verglas.algorithms.ctf.spectrum import TileSpectrum, tile_spectrum
from verglas.algorithms.ctf.summary import CtfFit, summarise
from verglas.algorithms.ctf.whittle import refine_likelihood
from verglas.kernels.ctf import electron_wavelength_angst

__all__ = ["CtfFit", "CtfFitConfig", "CtfStart", "fit_ctf"]


def fit_ctf(
    image: Tensor,
    *,
    pixel_size_angst: float,
    voltage_kv: float,
    spherical_aberration_mm: float,
    amplitude_contrast: float,
    config: CtfFitConfig | None = None,
    start: CtfStart | None = None,
) -> CtfFit:
    """Estimate defocus, astigmatism, phase shift and their reliability from one image.

    Convention: as `kernels.ctf.evaluate_ctf`; underfocus positive, angle from +x to the u axis
    towards +y (increasing row).

    Args:
        image: `[h, w]`, at least 128 pixels in each direction, any grey scale; pixels that are
            not numbers are left out.
        pixel_size_angst: of the image.
        voltage_kv: of the microscope.
        spherical_aberration_mm: of the microscope.
        amplitude_contrast: fraction.
        config: method and search ranges; the default suits most data.
        start: refined instead of a search's result.

    References:
        See `refine_likelihood`, `refine_correlation`, `refine_equiphase`, `refine_parametric`.
    """
    _check_image(image)
    config = config or CtfFitConfig()
    fixed_phase = 0.0 if config.searches_phase else math.radians(config.min_phase_shift_deg)
    optics = Optics(
        wavelength_angst=electron_wavelength_angst(voltage_kv),
        spherical_aberration_angst=spherical_aberration_mm * 1e7,
        contrast_phase=math.asin(amplitude_contrast) + fixed_phase,
    )
    spectrum = tile_spectrum(
        image,
        pixel_size_angst=pixel_size_angst,
        tile_angst=config.tile_angst,
        min_per_angst=1.0 / config.min_res_angst,
        max_per_angst=min(1.0 / config.max_res_angst, 0.475 / pixel_size_angst),
    )
    starts = (
        _searched(spectrum, optics=optics, config=config)
        if start is None
        else [_given(start, config=config)]
    )
    fits = [_refine(spectrum, optics=optics, initial=values, config=config) for values in starts]
    best = max(fits, key=lambda fit: fit.evidence)
    return summarise(spectrum, best, optics=optics, fixed_phase=fixed_phase, config=config)


def _check_image(image: Tensor) -> None:
    """Refuse what cannot have rings."""
    if image.ndim != 2 or min(image.shape) < 128:
        raise ValueError(f"image must be [h, w] of at least 128 pixels: got {tuple(image.shape)}")
    finite = image[torch.isfinite(image)]
    if len(finite) < 0.5 * image.numel():
        raise ValueError(f"only {len(finite)} of {image.numel()} pixels are numbers")
    if float(finite.max()) == float(finite.min()):
        raise ValueError(f"all pixels have the value {float(finite.max()):g}")


def _searched(
    spectrum: TileSpectrum, *, optics: Optics, config: CtfFitConfig
) -> list[dict[str, float]]:
    """Start values from an exhaustive search, best first."""
    searched = (config.min_phase_shift_deg, config.max_phase_shift_deg)
    guesses = search_ctf(
        spectrum.within(1.0 / config.search_res_angst),
        optics=optics,
        defocus_range_angst=(config.min_defocus_angst, config.max_defocus_angst),
        max_astigmatism_angst=config.max_astigmatism_angst,
        phase_shift_range_deg=searched if config.searches_phase else (0.0, 0.0),
    )
    found = []
    for guess in guesses:
        values = {
            "defocus": guess.defocus_angst,
            "astigmatism_cos": guess.astigmatism_cos_angst,
            "astigmatism_sin": guess.astigmatism_sin_angst,
        }
        if config.searches_phase:
            values["phase_shift"] = math.radians(guess.phase_shift_deg)
        found.append(values)
    return found


def _given(start: CtfStart, *, config: CtfFitConfig) -> dict[str, float]:
    """Start values from an earlier estimate."""
    half = 0.5 * (start.defocus_u_angst - start.defocus_v_angst)
    twice = 2.0 * math.radians(start.defocus_angle_deg)
    values = {
        "defocus": 0.5 * (start.defocus_u_angst + start.defocus_v_angst),
        "astigmatism_cos": half * math.cos(twice),
        "astigmatism_sin": half * math.sin(twice),
    }
    if config.searches_phase:
        values["phase_shift"] = math.radians(start.phase_shift_deg)
    return values


def _refine(
    spectrum: TileSpectrum, *, optics: Optics, initial: dict[str, float], config: CtfFitConfig
) -> RingFit:
    """Refine by the method that is asked for."""
    widest = config.max_astigmatism_angst
    if config.method == "correlation":
        return refine_correlation(
            spectrum,
            optics=optics,
            initial=initial,
            max_astigmatism_angst=widest,
            max_thickness_angst=config.max_thickness_angst,
        )
    if config.method == "likelihood":
        initial = initial | {"motion_cos": 0.0, "motion_sin": 0.0}
        refine = refine_likelihood
    else:
        refine = refine_equiphase if config.method == "equiphase" else refine_parametric
    return refine(spectrum, optics=optics, initial=initial, max_astigmatism_angst=widest)
