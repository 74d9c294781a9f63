"""The maximisation step: from weighted slices to regularised references."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.kernels.slices import (
    complete_hermitian_plane,
    half_plane_to_image,
    half_volume_size,
    half_volume_to_volume,
    symmetrise_half_volume,
)

__all__ = ["Sums", "radial_mean", "reconstruct", "shell_of_voxels", "symmetrise_sums"]

_WEIGHT_FLOOR = 1e-3  # of the shell's mean weight; keeps empty corners of Fourier space quiet


@dataclass(frozen=True)
class Sums:
    """What the expectation step adds up over views; a plain dictionary of arrays on disk.

    Attributes:
        numerator: `[c, ...]`, complex half volumes (one plane thick for 2D), one per reference.
        denominator: `[c, ...]`, real.
        residual_power: `[g, s]`, summed |X - CTF P|^2 / 2 by noise group and shell (float64).
        residual_count: `[g, s]`, number of coefficients behind it.
        scale_cross, scale_power: `[g, s]`, sums of <CTF P, X> and |CTF P|^2 over sigma^2.
        shift_square_angst2: `[2]`, summed squared shift per axis and the number of views.
        class_weight: `[c]`, posterior mass of each reference.
        evidence_loglik: `[1]`.
    """

    numerator: Tensor
    denominator: Tensor
    residual_power: Tensor
    residual_count: Tensor
    scale_cross: Tensor
    scale_power: Tensor
    shift_square_angst2: Tensor
    class_weight: Tensor
    evidence_loglik: Tensor

    @staticmethod
    def zeros(
        n_references: int,
        n_groups: int,
        radius: int,
        *,
        padding: int,
        planar: bool,
        device: torch.device | str = "cpu",
    ) -> "Sums":
        """Return empty sums."""
        m = half_volume_size(radius, padding)
        shape = (n_references, 3 if planar else m, m, m // 2 + 1)

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        return Sums(
            numerator=torch.zeros(shape, dtype=torch.complex64, device=device),
            denominator=torch.zeros(shape, device=device),
            residual_power=zeros(n_groups, radius + 1),
            residual_count=zeros(n_groups, radius + 1),
            scale_cross=zeros(n_groups, radius + 1),
            scale_power=zeros(n_groups, radius + 1),
            shift_square_angst2=zeros(2),
            class_weight=zeros(n_references),
            evidence_loglik=zeros(1),
        )

    @staticmethod
    def from_arrays(arrays: Mapping[str, object]) -> "Sums":
        """Rebuild from what `to_arrays` gave."""
        return Sums(**{name: torch.as_tensor(value) for name, value in arrays.items()})

    def to_arrays(self) -> dict[str, object]:
        """Return numpy arrays by name, which may be added over chunks."""
        return {name: value.cpu().numpy() for name, value in vars(self).items()}


def symmetrise_sums(
    numerator: Tensor, denominator: Tensor, operators: Tensor
) -> tuple[Tensor, Tensor]:
    """Make one reference's sums Hermitian and symmetric under a point group.

    Args:
        numerator: `[m, m, m // 2 + 1]`, complex.
        denominator: the same shape, real.
        operators: `[g, 3, 3]`.

    Returns:
        Both, as sums over the group.
    """
    numerator = complete_hermitian_plane(numerator)
    denominator = complete_hermitian_plane(denominator)
    if len(operators) > 1:
        numerator = symmetrise_half_volume(numerator, operators)
        denominator = symmetrise_half_volume(denominator.to(torch.complex64), operators).real
    return numerator, denominator


def shell_of_voxels(
    shape: tuple[int, ...] | torch.Size, padding: int, *, device: torch.device | str = "cpu"
) -> Tensor:
    """Return the nearest shell of the unpadded box for each voxel of a half volume.

    Args:
        shape: three sides; the outer planes of one three planes thick are out of reach.
        padding: oversampling factor.
        device: of the result.
    """
    d, h, w = shape
    z, y, x = (torch.arange(n, device=device) for n in (d, h, w))
    z, y = z - d // 2, y - h // 2
    if d == 3:
        z = z * 1_000_000
    # squares are whole numbers, and their roots never so near a half that float32 would err
    z, y, x = (axis.float().square() for axis in (z, y, x))
    radius = (z[:, None, None] + y[None, :, None] + x).sqrt_()
    return radius.div_(padding).round_().long()


def radial_mean(
    values: Tensor, *, radius: int, padding: int, shell: Tensor | None = None
) -> Tensor:
    """Average a real half volume over shells of the unpadded box.

    Args:
        values: `[d, m, m // 2 + 1]`.
        radius: last shell wanted.
        padding: oversampling factor.
        shell: of the voxels, if it is known already.

    Returns:
        `[radius + 1]`, float64.
    """
    if shell is None:
        shell = shell_of_voxels(values.shape, padding, device=values.device)
    shell = shell.clamp_max(radius + 1).flatten()
    total = torch.bincount(shell, weights=values.double().flatten(), minlength=radius + 2)
    count = torch.bincount(shell, minlength=radius + 2)
    return (total / count.clamp_min(1))[: radius + 1]


def reconstruct(
    numerator: Tensor,
    denominator: Tensor,
    *,
    radius: int,
    box: int,
    padding: int,
    inverse_snr: Tensor | None = None,
    planar: bool = False,
) -> Tensor:
    """Divide out the weights, with or without a prior, and go to real space.

    `V = N / (D + <D> / SNR)`, <D> the mean weight of the shell: the Wiener filter whose
    prior variance is SNR / <D> (Scheres 2012, eq. 3, with tau^2 written as a ratio).

    Args:
        numerator: `[m, m, m // 2 + 1]`, complex, symmetrised.
        denominator: the same shape, real.
        radius: last shell kept.
        box: side of the result, of the same extent in Å as the images.
        padding: oversampling factor.
        inverse_snr: `[radius + 1]` of 1 / SNR, infinite where nothing is known; None for
            the plain quotient.
        planar: the result is an image.

    Returns:
        `[box, box, box]`, or `[box, box]` when planar.
    """
    shell = shell_of_voxels(denominator.shape, padding, device=denominator.device)
    mean = radial_mean(denominator, radius=radius, padding=padding, shell=shell)
    inside = shell <= radius
    shell = shell.clamp_max(radius)
    floor = (_WEIGHT_FLOOR * mean + 1e-30).float()[shell]
    weight = denominator
    if inverse_snr is not None:
        prior = (mean * inverse_snr.to(mean).clamp_max(1e12)).float()[shell]
        weight = weight + prior
    quotient = torch.where(inside, numerator / torch.maximum(weight, floor), 0)
    if planar:
        return half_plane_to_image(quotient[None], box=box, padding=padding)[0]
    return half_volume_to_volume(quotient[None], box=box, padding=padding)[0]
