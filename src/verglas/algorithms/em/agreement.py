"""How well maps from independent starts agree: the confidence in a first map."""

from torch import Tensor

from verglas.algorithms.map_align import AlignConfig, align_maps
from verglas.algorithms.resample import resample_volume
from verglas.kernels.fourier import rfft3
from verglas.kernels.fsc import fourier_shell_correlation
from verglas.kernels.masks import soft_sphere

__all__ = ["aligned_fsc", "map_agreement"]

_FIRST_SHELL = 2  # the coarser ones tell the size of the particle only
_FREE = "C"  # groups that leave a map free to turn or slide along its axis
_ALIGN_ORDER = 2
_ALIGN_CANDIDATES = 2
_ALIGN_COMPONENTS = 20_000
_ALIGN_COARSER = 2.0  # than the last shell; maps of one particle lie the same at 20 Å and at 10


def map_agreement(
    reference: Tensor,
    other: Tensor,
    *,
    pixel_size_angst: float,
    diameter_angst: float,
    resolution_angst: float,
    symmetry: str,
) -> float:
    """Average `aligned_fsc` from the second shell to a resolution.

    Args:
        reference, other: `[n, n, n]`.
        pixel_size_angst: of both.
        diameter_angst: of the particle.
        resolution_angst: shells up to here are averaged.
        symmetry: point group of both.

    Returns:
        In [-1, 1].
    """
    fsc = aligned_fsc(
        reference,
        other,
        pixel_size_angst=pixel_size_angst,
        diameter_angst=diameter_angst,
        resolution_angst=resolution_angst,
        symmetry=symmetry,
    )
    return float(fsc[_FIRST_SHELL:].mean())


def aligned_fsc(
    reference: Tensor,
    other: Tensor,
    *,
    pixel_size_angst: float,
    diameter_angst: float,
    resolution_angst: float,
    symmetry: str,
) -> Tensor:
    """Correlate two maps shell by shell, in the better hand.

    Maps of a group that fixes their axes are compared where they are; those of C1 and Cn are
    aligned first.

    Args:
        reference, other: `[n, n, n]`.
        pixel_size_angst: of both.
        diameter_angst: of the particle.
        resolution_angst: of the last shell.
        symmetry: point group of both.

    Returns:
        `[s]`, inside a soft sphere.
    """
    n = reference.shape[-1]
    last = max(_FIRST_SHELL + 1, min(n // 2, round(n * pixel_size_angst / resolution_angst)))
    mask = soft_sphere(n, 0.55 * diameter_angst / pixel_size_angst, 4.0)

    def fsc(moved: Tensor) -> Tensor:
        a, b = (rfft3((volume * mask)[None]) for volume in (reference, moved))
        return fourier_shell_correlation(a, b, n_shells=last + 1)[0]

    if not symmetry.startswith(_FREE):
        mirrored = other.flip(0) if n % 2 else other.flip(0).roll(1, 0)
        return max((fsc(other), fsc(mirrored)), key=lambda curve: float(curve.sum()))
    found = align_maps(
        reference,
        other,
        reference_pixel_size_angst=pixel_size_angst,
        moving_pixel_size_angst=pixel_size_angst,
        config=AlignConfig(
            symmetry=symmetry,
            diameter_angst=diameter_angst,
            order=_ALIGN_ORDER,
            candidates=_ALIGN_CANDIDATES,
            finest_angst=_ALIGN_COARSER * max(resolution_angst, 2 * pixel_size_angst),
            max_components=_ALIGN_COMPONENTS,
        ),
    )
    return fsc(
        resample_volume(
            other,
            found.best.pose,
            pixel_size_angst=pixel_size_angst,
            box=n,
            output_pixel_size_angst=pixel_size_angst,
        )
    )
