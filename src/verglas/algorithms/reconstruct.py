"""Maps from images of known pose, by weighted insertion in Fourier space.

`empty_sums -> add_images -> stored_sums`, over blocks of images and any number of processes;
then `make_maps` from the sums of both halves. All is numpy and numba: loading torch would take
longer than most reconstructions (docs/decisions/005-reconstruction-without-torch.md).
Follows Penczek 2010, doi:10.1016/S0076-6879(10)82001-4; on the Ewald sphere Wolf et al. 2006,
doi:10.1016/j.ultramic.2005.11.001; the Wiener filter is that of Scheres 2012.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from verglas.algorithms.image_tables import Images, Tables, ctf_phases, wavelengths_angst
from verglas.kernels._machine_code import CompiledLoop
from verglas.kernels.point_groups import group_operators
from verglas.kernels.real_fft import irfftn, rfftn
from verglas.kernels.symmetrise import symmetrise_channels

__all__ = [
    "Maps",
    "ReconstructConfig",
    "add_images",
    "direction_order",
    "empty_sums",
    "make_maps",
    "stored_sums",
]

CtfUse = Literal["full", "flipped", "none"]
Sphere = Literal["flat", "positive", "negative"]
Real = NDArray[np.float32]
Double = NDArray[np.float64]

_MODES: dict[str, int] = {"full": 0, "flipped": 1, "none": 2}
_WEIGHT_FLOOR = 1e-3  # of the shell's mean weight; keeps empty corners of Fourier space quiet
_FSC_CEILING = 0.999
_BAND_RAD = math.radians(6)


_IMAGES = "f4[4] f4[2] f4[2] f4[3] f4[3] i8[1] i8"
_insert = CompiledLoop("_numba_images", "insert_images", f"{_IMAGES} i8 i8 f4[2] i4[1] f4[1]")
_insert_curved = CompiledLoop(
    "_numba_images", "insert_curved_images", f"{_IMAGES} f4[1] f8 i8 f4[1]"
)
_pack = CompiledLoop("_numba_sums", "pack", "f4[4] f4[2]")
_unpack = CompiledLoop("_numba_sums", "unpack", "f8[2] f4[4]")
_radial_weight = CompiledLoop("_numba_sums", "radial_weight", "f4[4] f8 f8[1] f8[1]")
_divide = CompiledLoop("_numba_sums", "divide", "f4[4] f8 f4[1] f4[1] c8[3]")
_shell_products = CompiledLoop("_numba_sums", "shell_products", "c8[3] c8[3] f8[2]")


@dataclass(frozen=True)
class ReconstructConfig:
    """What a reconstruction is told.

    Attributes:
        box: of the images, in pixels.
        pixel_size_angst: of the images.
        symmetry: point group.
        max_resolution_angst: nothing beyond is used; 0 for Nyquist.
        padding: oversampling of the half volume, about.
        ctf: "full", "flipped" for images whose phases were flipped, "none" to ignore it.
        diameter_angst: of the particle: of the soft sphere inside which half maps are compared.
        ewald: "flat" takes images for projections. "positive" and "negative" add them on the
            Ewald sphere: what lies at larger z of the image's frame is less underfocused by
            as much with "positive", more with "negative".
    """

    box: int
    pixel_size_angst: float
    symmetry: str = "C1"
    max_resolution_angst: float = 0.0
    padding: float = 1.5
    ctf: CtfUse = "full"
    diameter_angst: float = 0.0
    ewald: Sphere = "flat"

    @property
    def extent_angst(self) -> float:
        """Side of the box."""
        return self.box * self.pixel_size_angst

    @property
    def radius(self) -> int:
        """Last shell in use; that of Nyquist by itself."""
        nyquist = self.box // 2
        if self.max_resolution_angst <= 0:
            return nyquist
        return max(2, min(nyquist, int(self.extent_angst / self.max_resolution_angst + 1e-6)))

    @property
    def period(self) -> int:
        """Even side of the padded box."""
        return 2 * math.ceil(self.box * self.padding / 2 - 1e-6)

    @property
    def oversampling(self) -> float:
        """What the padding comes to."""
        return self.period / self.box

    @property
    def side(self) -> int:
        """Odd side of the half volume."""
        return 2 * (math.ceil((self.radius + 0.5) * self.oversampling) + 1) + 1


@dataclass(frozen=True)
class Maps:
    """What `make_maps` gives.

    Attributes:
        full: `[n, n, n]`, from all images.
        halves: `[h, n, n, n]`, never regularised; one where there is one half only.
        fsc: `[radius + 1]`, between the halves inside the soft sphere; empty for one half.
        resolution_angst: where the FSC falls below 0.143; of Nyquist without halves.
    """

    full: Real
    halves: Real
    fsc: Double
    resolution_angst: float


def direction_order(rotation_ref_to_img: Double) -> NDArray[np.int64]:
    """Order images so that neighbours in the list cut the volume along nearby planes.

    Bands of 6 degrees are walked to and fro, which halves the time of insertion: what one
    slice brings into the cache, the next ones use.
    """
    normal = rotation_ref_to_img[:, 2]
    normal = normal * np.where(normal[:, 2:] < 0, -1.0, 1.0)
    band = (np.arccos(np.clip(normal[:, 2], -1, 1)) / _BAND_RAD).astype(np.int64)
    around = np.arctan2(normal[:, 1], normal[:, 0])
    order: NDArray[np.int64] = np.lexsort((np.where(band % 2, around, -around), band))
    return order


def empty_sums(config: ReconstructConfig) -> Real:
    """Return `[m, m, m // 2 + 1, 4]` of zeros: real, imaginary, weight, unused."""
    m = config.side
    return np.zeros((m, m, m // 2 + 1, 4), np.float32)


def add_images(
    sums: Real, pictures: Real, images: Images, config: ReconstructConfig, tables: Tables
) -> None:
    """Add images to sums.

    Args:
        sums: from `empty_sums`.
        pictures: `[b, n, n]`, protein bright.
        images: poses and CTF, `b` entries.
        config: of the run.
        tables: from `aberration_tables`.
    """
    pictures_ft = rfftn(pictures, 2)
    matrix = tables.matrix[images.group]
    common = (
        pictures_ft.view(np.float32).reshape(*pictures_ft.shape, 2),
        _geometry(images, matrix, config),
        ctf_phases(images, matrix, config.extent_angst),
        tables.odd,
        tables.even,
        images.group,
        config.radius,
    )
    if config.ewald == "flat":
        n = config.radius + 1
        scratch, place = np.empty((9, n), np.float32), np.empty(n, np.int32)
        _insert(*common, _MODES[config.ctf], config.side, scratch, place, sums.reshape(-1))
        return
    if config.ctf != "full":
        raise ValueError(f"the Ewald sphere needs images with their CTF: got ctf {config.ctf!r}")
    sign = 1.0 if config.ewald == "positive" else -1.0
    bend = sign * wavelengths_angst(images) / (2 * config.extent_angst)
    thickness = _diameter_angst(config) / config.extent_angst
    _insert_curved(*common, bend.astype(np.float32), thickness, config.side, sums.reshape(-1))


def _geometry(images: Images, matrix: Double, config: ReconstructConfig) -> Real:
    """Return `[b, 11]`: shift in cycles a Fourier pixel, and the padded axes of the slice."""
    # the centre pixel becomes the origin: as if the image moved there
    moved_px = images.shift_angst / config.pixel_size_angst - config.box // 2
    axes = images.rotation_ref_to_img.copy()
    axes[:, :2] = np.swapaxes(matrix, 1, 2) @ axes[:, :2]
    axes = axes.reshape(-1, 9) * config.oversampling
    # the fraction of a whole turn a pixel is all that counts
    cycles = -moved_px / config.box
    return np.concatenate([cycles - np.rint(cycles), axes], axis=1).astype(np.float32)


def stored_sums(sums: Real) -> Real:
    """Return `[3, voxels]`, what of the sums is worth storing and adding."""
    packed = np.empty((3, _count_voxels(len(sums))), np.float32)
    _pack(sums, packed)
    return packed


def _count_voxels(side: int) -> int:
    """Count the voxels of a sphere that `pack` stores, row by row."""
    square = np.square(np.arange(side, dtype=np.float64) - side // 2)
    rest = (side // 2) ** 2 - (square[:, None] + square)
    return int((np.sqrt(rest[rest >= 0]).astype(np.int64) + 1).sum())


def make_maps(
    stored: Mapping[int, NDArray[np.floating]], config: ReconstructConfig, *, regularise: bool
) -> Maps:
    """Symmetrise, divide out the weights, and go to real space.

    Args:
        stored: sums by half set.
        config: of the run.
        regularise: multiply the full map by what the FSC leaves of it, weight by weight.

    Returns:
        The maps, on the scale of the images.
    """
    whole = [_completed(stored[half], config) for half in sorted(stored)]
    halves = np.stack([_to_real_space(sums, config, None) for sums in whole])
    if len(whole) < 2:
        return Maps(halves[0], halves, np.zeros(0), config.extent_angst / config.radius)
    fsc = _half_map_fsc(halves, config)
    total = whole[0]
    total += whole[1]
    snr = _signal_to_noise(fsc) if regularise else None
    full = _to_real_space(total, config, snr)
    return Maps(full, halves, fsc, _resolution_angst(fsc, config))


def _completed(stored: NDArray[np.floating], config: ReconstructConfig) -> Real:
    sums = empty_sums(config)
    _unpack(np.asarray(stored, np.float64), sums)
    operators = group_operators(config.symmetry)
    return symmetrise_channels(sums, operators) if len(operators) > 1 else sums


def _to_real_space(sums: Real, config: ReconstructConfig, snr: Double | None) -> Real:
    """Divide by the weights, with the prior <weight> / SNR of each shell, and transform."""
    total, count = np.zeros((2, config.radius + 1))
    _radial_weight(sums, config.oversampling, total, count)
    mean = total / np.maximum(count, 1)
    prior = np.zeros_like(mean)
    if snr is not None:
        prior = np.where(snr > 0, mean / np.maximum(snr, 1e-12), -1.0)
    period, box = config.period, config.box
    volume_ft = np.zeros((period, period, period // 2 + 1), np.complex64)
    _divide(
        sums,
        config.oversampling,
        (_WEIGHT_FLOOR * mean + 1e-30).astype(np.float32),
        prior.astype(np.float32),
        volume_ft,
    )
    volume = irfftn(volume_ft, 3)
    start = period // 2 - box // 2
    kept = volume[start : start + box, start : start + box, start : start + box]
    window = np.sinc((np.arange(box) - box // 2) / period) ** 2
    scale = (1 / window).astype(np.float32)
    out: Real = kept * scale[:, None, None] * scale[:, None] * scale
    return out


def _half_map_fsc(halves: Real, config: ReconstructConfig) -> Double:
    mask = _soft_sphere(config)
    a_ft, b_ft = (rfftn(half * mask, 3) for half in halves)
    sums = np.zeros((3, config.radius + 1))
    _shell_products(a_ft, b_ft, sums)
    cross, a_power, b_power = sums
    return np.asarray(cross / np.sqrt(np.maximum(a_power * b_power, 1e-300)))


def _soft_sphere(config: ReconstructConfig) -> Real:
    """Return `[n, n, n]`, 1 within the particle and 0 beyond an edge of a cosine."""
    inner = (
        min(0.55 * _diameter_angst(config), 0.45 * config.extent_angst) / config.pixel_size_angst
    )
    edge = max(4.0, 10.0 / config.pixel_size_angst)
    axis = (np.arange(config.box) - config.box // 2).astype(np.float32) ** 2
    distance = np.sqrt(axis[:, None, None] + axis[:, None] + axis)
    ramp = np.clip((distance - inner) / edge, 0, 1)
    out: Real = (0.5 + 0.5 * np.cos(np.pi * ramp)).astype(np.float32)
    return out


def _diameter_angst(config: ReconstructConfig) -> float:
    return config.diameter_angst or config.extent_angst * 2 / 3


def _signal_to_noise(fsc: Double) -> Double:
    """Return the signal-to-noise ratio of all images together from the FSC of halves."""
    f = np.clip(fsc, 0.0, _FSC_CEILING)
    alive = np.cumprod(f[1:] > 1e-3)
    f = np.concatenate([[f[1]], f[1:] * alive])
    return np.asarray(2 * f / (1 - f))


def _resolution_angst(fsc: Double, config: ReconstructConfig) -> float:
    """Return where the FSC first falls below 0.143 for two shells, interpolated."""
    below = fsc < 0.143
    sustained = below & np.append(below[1:], True)
    sustained[:2] = False
    where = np.flatnonzero(sustained)
    if not len(where):
        return config.extent_angst / config.radius
    s = int(where[0])
    part = (fsc[s - 1] - 0.143) / max(fsc[s - 1] - fsc[s], 1e-9)
    return float(config.extent_angst / (s - 1 + min(max(part, 0.0), 1.0)))
