"""What is known of images, as the compiled loops take it: CTF, aberrations, poses.

Without tensors, since loading torch takes longer than short jobs work
(docs/decisions/005-reconstruction-without-torch.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from verglas.algorithms.aberrations import Aberrations
from verglas.kernels.electron import electron_wavelength_angst

__all__ = ["Images", "Tables", "aberration_tables", "ctf_phases", "wavelengths_angst"]

Real = NDArray[np.float32]
Double = NDArray[np.float64]


@dataclass(frozen=True)
class Images:
    """What is known of some images, float64, one entry each.

    Attributes:
        rotation_ref_to_img: `[b, 3, 3]`.
        shift_angst: `[b, 2]`, moves the image onto the reference.
        defocus_u_angst, defocus_v_angst, defocus_angle_deg, phase_shift_deg: `[b]`.
        voltage_kv, spherical_aberration_mm, amplitude_contrast: `[b]`.
        group: `[b]`, into the aberrations.
    """

    rotation_ref_to_img: Double
    shift_angst: Double
    defocus_u_angst: Double
    defocus_v_angst: Double
    defocus_angle_deg: Double
    phase_shift_deg: Double
    voltage_kv: Double
    spherical_aberration_mm: Double
    amplitude_contrast: Double
    group: NDArray[np.int64]

    def take(self, index: NDArray[np.int64] | slice) -> "Images":
        """Return the entries of some images."""
        return Images(**{name: value[index] for name, value in vars(self).items()})


@dataclass(frozen=True)
class Tables:
    """Aberrations as loops want them, one entry per optics group.

    Attributes:
        odd, even: `[g, n, n // 2 + 1]`, phases in turns; `[0, 0, 0]` where no group has any.
        matrix: `[g, 2, 2]`, from an image's frequencies to the map's.
    """

    odd: Real
    even: Real
    matrix: Double


def aberration_tables(groups: Sequence[Aberrations], box: int, extent_angst: float) -> Tables:
    """Evaluate the aberrations of each optics group on the grid of the images' transforms.

    Args:
        groups: one entry per optics group.
        box: of the images, in pixels.
        extent_angst: side of the box.
    """
    n = box
    matrix = np.stack([group.matrix for group in groups])
    if not any(group.odd or group.even for group in groups):
        none = np.zeros((0, 0, 0), np.float32)
        return Tables(none, none, matrix)
    ky, kx = np.meshgrid(np.fft.fftfreq(n, 1 / n), np.arange(n // 2 + 1), indexing="ij")
    grid = np.stack([kx, ky], axis=-1) / extent_angst
    odd, even = (
        np.stack([getattr(g, f"{kind}_phase_rad")(grid @ g.matrix.T) for g in groups])
        for kind in ("odd", "even")
    )
    turn = 2 * np.pi
    return Tables((odd / turn).astype(np.float32), (even / turn).astype(np.float32), matrix)


def ctf_phases(images: Images, matrix_img_to_map: Double, extent_angst: float) -> Real:
    """Write the CTF's argument, in turns, as a polynomial of Fourier pixels.

    Args:
        images: `b` entries.
        matrix_img_to_map: `[b, 2, 2]`, of frequencies; the CTF is given in those of the map.
        extent_angst: side of the box.

    Returns:
        `[b, 8]`: constant, factors of kx^2, kx ky, ky^2, that of q^2, and q's factors of
        kx^2, kx ky and ky^2.
    """
    pixel = 1 / extent_angst**2
    wavelength = wavelengths_angst(images)
    mean = wavelength * (images.defocus_u_angst + images.defocus_v_angst) / 4 * pixel
    half = wavelength * (images.defocus_u_angst - images.defocus_v_angst) / 4 * pixel
    angle = 2 * np.radians(images.defocus_angle_deg)
    cosine, sine = half * np.cos(angle), half * np.sin(angle)
    form = np.stack([mean + cosine, sine, sine, mean - cosine], axis=1).reshape(-1, 2, 2)
    transposed = np.swapaxes(matrix_img_to_map, 1, 2)
    form = transposed @ form @ matrix_img_to_map
    square = transposed @ matrix_img_to_map
    out = np.zeros((len(wavelength), 8))
    out[:, 0] = np.arcsin(images.amplitude_contrast) / (2 * np.pi) + images.phase_shift_deg / 360
    out[:, 4] = -images.spherical_aberration_mm * 1e7 * wavelength**3 / 4 * pixel**2
    for start, values in ((1, form), (5, square)):
        out[:, start] = values[:, 0, 0]
        out[:, start + 1] = 2 * values[:, 0, 1]
        out[:, start + 2] = values[:, 1, 1]
    return out.astype(np.float32)


def wavelengths_angst(images: Images) -> Double:
    """Return the electrons' wavelength of each image, `[b]`."""
    kinds, which = np.unique(images.voltage_kv, return_inverse=True)
    return np.array([electron_wavelength_angst(float(voltage)) for voltage in kinds])[which]
