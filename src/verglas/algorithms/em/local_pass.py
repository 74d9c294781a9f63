"""One local pass: climb from known poses to the peaks of a given map's likelihood.

A map from elsewhere has another fall-off than the images. Its amplitude is fitted shell by
shell at the poses that there are; shells without signal come out at zero by themselves, and
those of a low-passed map back at their strength. A second climb then weighs all shells right.
The first goes no farther than most of what the map explains at the poses given: from poses far
off the outer shells would add noise and peaks of their own, at most of the cost.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.algorithms.em.local import Peaks, Starts, climb
from verglas.algorithms.em.references import Poses, References, slices_of
from verglas.algorithms.views import Views
from verglas.kernels.disc import shell_sums

__all__ = ["Amplitudes", "climb_from", "measure_amplitudes", "poses_of_peaks", "scaled_shells"]

_STRONGEST = 20.0  # times the typical amplitude
_STEPS = 8
_MOST_SIGNAL = 0.95  # of what the map explains; the first climb leaves out the rest


@dataclass(frozen=True)
class Amplitudes:
    """Regression of views on the predictions of a map, summed by shell, all over sigma^2.

    Attributes:
        cross: `[s]`, sum of <CTF P, X>.
        power: `[s]`, sum of |CTF P|^2.
        total: `[s]`, sum of |X|^2.
    """

    cross: Tensor
    power: Tensor
    total: Tensor

    def factors(self) -> Tensor:
        """Return `[s]`, by which the map's shells are to be multiplied; none is negative."""
        factor = (self.cross / self.power.clamp_min(1e-30)).clamp_min(0.0)
        typical = self.cross.clamp_min(0.0).sum() / self.power.sum().clamp_min(1e-30)
        factor = factor.clamp_max(_STRONGEST * float(typical))
        factor[0] = factor[1]
        return factor

    def informed_radius(self) -> int:
        """Return the shell up to which most of what the map explains lies."""
        explained = self.cross.clamp_min(0.0).square() / self.power.clamp_min(1e-30)
        explained[0] = 0.0
        within = explained.cumsum(0)
        return max(2, int((within < _MOST_SIGNAL * within[-1]).sum()))

    def noise_share(self) -> Tensor:
        """Return `[s]`, what the fitted map leaves of the views' power."""
        explained = self.cross.clamp_min(0.0).square() / (self.power * self.total).clamp_min(1e-30)
        share: Tensor = (1 - explained).clamp(0.02, 1.0)
        share[0] = share[1]
        return share


def measure_amplitudes(
    views: Views, reference: References, rotations_ref_to_img: Tensor, shifts_angst: Tensor
) -> Amplitudes:
    """Compare views with a map at one pose each, shell by shell.

    Args:
        views: not moved.
        reference: one map.
        rotations_ref_to_img: `[b, 3, 3]`.
        shifts_angst: `[b, 2]`.
    """
    here = views.shifted(shifts_angst)
    zero = torch.zeros(len(here), dtype=torch.long)
    prediction = here.ctf * slices_of(reference, rotations_ref_to_img, zero, here.disc)
    inverse = here.inverse_noise

    def add(values: Tensor) -> Tensor:
        return shell_sums(values * inverse, here.disc).double().sum(0)

    return Amplitudes(
        cross=add((prediction.conj() * here.data).real),
        power=add(prediction.abs().square()),
        total=add(here.data.abs().square()),
    )


def scaled_shells(half_volumes: Tensor, factors: Tensor, padding: int) -> Tensor:
    """Multiply half volumes by a factor that is linear between shells.

    Args:
        half_volumes: `[c, m, m, m // 2 + 1]`.
        factors: `[s]`.
        padding: oversampling of the half volumes.
    """
    m = half_volumes.shape[1]
    axis = (torch.arange(m) - m // 2).float()
    x = torch.arange(half_volumes.shape[3]).float()
    radius = (axis[:, None, None].square() + axis[:, None].square() + x.square()).sqrt() / padding
    low = radius.floor().long()
    rest = radius - low
    last = len(factors) - 1
    known = factors.float()
    at = known[low.clamp_max(last)] * (1 - rest) + known[(low + 1).clamp_max(last)] * rest
    return half_volumes * at


def climb_from(
    views: Views,
    reference: References,
    rotations_ref_to_img: Tensor,
    shifts_angst: Tensor,
    *,
    shift_prior_angst: float,
) -> Peaks:
    """Climb from one pose of each view.

    Args:
        views: up to the radius in use.
        reference: one map.
        rotations_ref_to_img: `[b, 3, 3]`.
        shifts_angst: `[b, 2]`.
        shift_prior_angst: standard deviation of shifts about zero.
    """
    n = len(views)
    starts = Starts(
        view=torch.arange(n),
        reference=torch.zeros(n, dtype=torch.long),
        rotations_ref_to_img=rotations_ref_to_img.double().clone(),
        shifts_angst=shifts_angst.double().clone(),
    )
    return climb(views, reference, starts, shift_prior_angst=shift_prior_angst, steps=_STEPS)


def poses_of_peaks(peaks: Peaks, pixel_size_angst: float) -> Poses:
    """Give each view its peak, with the width that the Fisher information says."""
    covariance = torch.linalg.inv(peaks.precision).diagonal(dim1=1, dim2=2)
    one = torch.ones(len(peaks.loglik))
    return Poses(
        rotation_ref_to_img=peaks.at.rotations_ref_to_img,
        shift_angst=peaks.at.shifts_angst,
        reference=peaks.at.reference,
        reference_weight=one,
        weight=one,
        loglik=peaks.loglik,
        effective_cells=one,
        angle_sd_deg=torch.rad2deg(covariance[:, :3].sum(1).sqrt()).float(),
        shift_sd_angst=(covariance[:, 3:].sum(1).sqrt() * pixel_size_angst).float(),
    )
