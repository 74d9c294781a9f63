"""Simulate micrographs with known CTF for tests, in numpy and from the formula alone."""

import math

import numpy as np


def ctf(
    shape,
    *,
    pixel_size_angst,
    defocus_angst,
    astigmatism_angst,
    angle_deg,
    cs_mm,
    kv,
    phase_deg=0.0,
):
    """CTF of a half plane and the squared frequency; amplitude contrast 0.07."""
    y = np.fft.fftfreq(shape[0], pixel_size_angst)[:, None]
    x = np.fft.rfftfreq(shape[1], pixel_size_angst)[None]
    square, angle = x**2 + y**2, np.arctan2(y, x)
    volts = kv * 1e3
    wavelength = 12.2643247 / math.sqrt(volts * (1 + 0.978466e-6 * volts))
    local = defocus_angst + 0.5 * astigmatism_angst * np.cos(2 * (angle - np.deg2rad(angle_deg)))
    chi = math.pi * wavelength * local * square
    chi -= 0.5 * math.pi * cs_mm * 1e7 * wavelength**3 * square**2
    return np.sin(chi + math.asin(0.07) + math.radians(phase_deg)), square


def shells(rng, shape, *, pixel_size_angst, n=170):
    """Hollow shells of 124 Å at random places: the strong low frequencies of real images."""
    field = np.zeros(shape)
    np.add.at(field, tuple(rng.integers(0, side, n) for side in shape), 1.0)
    y = np.fft.fftfreq(shape[0], 1 / shape[0])[:, None] * pixel_size_angst
    x = np.fft.fftfreq(shape[1], 1 / shape[1])[None] * pixel_size_angst
    square = x**2 + y**2
    outer, inner = (2 * np.sqrt(np.clip(r * r - square, 0, None)) for r in (62.0, 38.0))
    shell = outer - inner
    return np.fft.rfft2(field) * np.fft.rfft2(shell / shell.max())


def micrograph(
    rng,
    *,
    defocus_angst,
    astigmatism_angst=300.0,
    angle_deg=50.0,
    cs_mm=0.001,
    kv=300.0,
    phase_deg=0.0,
    snr=0.4,
    b_factor_angst2=60.0,
    drift_angst=0.0,
    shape=(1024, 1024),
    pixel_size_angst=1.5,
):
    """White specimen and shells through CTF and envelope, shot noise of variance 1, slow stain.

    Drift is along x. With snr 0.4 and B 60 the rings have the heights of the real apoferritin
    images: 0.3 of the background at 10 Å, 0.15 at 5 Å.
    """
    transfer, square = ctf(
        shape,
        pixel_size_angst=pixel_size_angst,
        defocus_angst=defocus_angst,
        astigmatism_angst=astigmatism_angst,
        angle_deg=angle_deg,
        cs_mm=cs_mm,
        kv=kv,
        phase_deg=phase_deg,
    )
    specimen = np.fft.rfft2(rng.standard_normal(shape)) * math.sqrt(snr)
    specimen += shells(rng, shape, pixel_size_angst=pixel_size_angst)
    x = np.fft.rfftfreq(shape[1], pixel_size_angst)[None]
    envelope = np.exp(-0.25 * b_factor_angst2 * square) * np.sinc(x * drift_angst)
    stain = np.fft.rfft2(rng.standard_normal(shape)) * 0.8 / (1 + square / 0.02**2)
    signal = np.fft.irfft2(stain - specimen * transfer * envelope, s=shape)
    return (rng.standard_normal(shape) + signal).astype(np.float32)
