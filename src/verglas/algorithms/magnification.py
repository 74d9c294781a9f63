"""Anisotropic magnification from particles of known pose: the normal equations of its matrix."""

import torch
from torch import Tensor

from verglas.algorithms.aberrations import Aberrations
from verglas.algorithms.ctf_refine import Pairs, Reference
from verglas.kernels.slices import extract_slices

__all__ = ["magnification_equations"]

_STEP_PX = 0.5  # of the derivative, within a cell of the oversampled map


def magnification_equations(
    pairs: Pairs, rotations_ref_to_img: Tensor, reference: Reference, aberrations: Aberrations
) -> tuple[Tensor, Tensor]:
    """Linearise the likelihood in the matrix that takes an image's frequencies to the map's.

    `P((M + E) k) = P(M k) + sum over i, j of dP/dq_i E_ij k_j`. What the CTF changes by is
    left out: it is far less.

    Args:
        pairs: of one optics group.
        rotations_ref_to_img: `[b, 3, 3]`.
        reference: that the pairs were made with.
        aberrations: that the pairs were made with.

    Returns:
        Slope `[4]` and Fisher information `[4, 4]` of the elements 00, 01, 10, 11, float64.
    """
    pixels = pairs.disc.frequencies_px
    mapped = (pixels.double() @ torch.from_numpy(aberrations.matrix).T).float()
    factor = reference.factor.float()[pairs.disc.shell]
    ctf = pairs.phase.sin()
    gradients = []
    for axis in torch.eye(2) * _STEP_PX:
        ahead, behind = (
            extract_slices(
                reference.half_volume, rotations_ref_to_img, at, padding=reference.padding
            )
            for at in (mapped + axis, mapped - axis)
        )
        gradients.append(ctf * factor * (ahead - behind) / (2 * _STEP_PX))
    residual = (pairs.data - ctf * pairs.model) * pairs.inverse_noise
    slope = torch.stack(
        [
            ((g.conj() * residual).real.sum(0, dtype=torch.float64) * pixels[:, j]).sum()
            for g in gradients
            for j in (0, 1)
        ]
    )
    information = torch.zeros(4, 4, dtype=torch.float64)
    for a in range(4):
        for b in range(4):
            product = (gradients[a // 2].conj() * gradients[b // 2]).real * pairs.inverse_noise
            weight = pixels[:, a % 2] * pixels[:, b % 2]
            information[a, b] = (product.sum(0, dtype=torch.float64) * weight).sum()
    return slope, information
