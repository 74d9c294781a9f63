"""The maximisation step: from weighted slices to regularised references."""

from collections.abc import Iterator, Mapping
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

_VOXELS_AT_ONCE = 1_000_000
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
        """Rebuild from what `to_arrays` gave, added over chunks in whatever precision.

        Half volumes go back to single precision: they are the largest things there are.
        """
        values = {name: torch.as_tensor(value) for name, value in arrays.items()}
        values["numerator"] = values["numerator"].to(torch.complex64)
        values["denominator"] = values["denominator"].float()
        return Sums(**values)

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
        denominator = symmetrise_half_volume(denominator, operators)
    return numerator, denominator


def shell_of_voxels(
    shape: tuple[int, ...] | torch.Size,
    padding: int,
    *,
    planes: slice = slice(None),
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return the nearest shell of the unpadded box for each voxel of a half volume.

    Args:
        shape: three sides; the outer planes of one three planes thick are out of reach.
        padding: oversampling factor.
        planes: of z that are wanted; all by default.
        device: of the result.
    """
    d, h, w = shape
    z, y, x = (torch.arange(n, device=device) for n in (d, h, w))
    z, y = z - d // 2, y - h // 2
    if d == 3:
        z = z * 1_000_000
    # squares are whole numbers, and their roots never so near a half that float32 would err
    z, y, x = (axis.float().square() for axis in (z[planes], y, x))
    radius = (z[:, None, None] + y[None, :, None] + x).sqrt_()
    return radius.div_(padding).round_().long()


def _blocks(shape: torch.Size) -> Iterator[slice]:
    """Cut a half volume into blocks of planes; what is worked out by voxel takes no more."""
    step = max(1, _VOXELS_AT_ONCE // (shape[1] * shape[2]))
    for start in range(0, shape[0], step):
        yield slice(start, start + step)


def radial_mean(values: Tensor, *, radius: int, padding: int) -> Tensor:
    """Average a real half volume over shells of the unpadded box.

    Args:
        values: `[d, m, m // 2 + 1]`.
        radius: last shell wanted.
        padding: oversampling factor.

    Returns:
        `[radius + 1]`, float64.
    """
    total = torch.zeros(radius + 2, dtype=torch.float64, device=values.device)
    count = torch.zeros_like(total)
    for planes in _blocks(values.shape):
        shell = shell_of_voxels(values.shape, padding, planes=planes, device=values.device)
        shell = shell.clamp_max_(radius + 1).flatten()
        weights = values[planes].double().flatten()
        total += torch.bincount(shell, weights=weights, minlength=radius + 2)
        count += torch.bincount(shell, minlength=radius + 2)
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
    mean = radial_mean(denominator, radius=radius, padding=padding)
    floor = (_WEIGHT_FLOOR * mean + 1e-30).float()
    prior = torch.zeros_like(floor)
    if inverse_snr is not None:
        prior = (mean * inverse_snr.to(mean).clamp_max(1e12)).float()
    quotient = torch.empty_like(numerator)
    for planes in _blocks(numerator.shape):
        shell = shell_of_voxels(numerator.shape, padding, planes=planes, device=denominator.device)
        inside = shell <= radius
        shell.clamp_max_(radius)
        weight = torch.maximum(denominator[planes] + prior[shell], floor[shell])
        quotient[planes] = torch.where(inside, numerator[planes] / weight, 0)
    if planar:
        return half_plane_to_image(quotient[None], box=box, padding=padding)[0]
    return half_volume_to_volume(quotient[None], box=box, padding=padding)[0]
