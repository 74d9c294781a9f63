"""Gauss-Newton refinement of one map's pose against another's Fourier components.

The reference's whitened components are taken as `F b + noise` with `b` the whitened moving
map and F the shell correlation, so a shell weighs `F^2 / (1 - F^2)` in the normal equations:
shells without signal drop out and no band limit has to be chosen with care.
"""

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.algorithms._map_band import ReferenceBand, shell_correlation, shell_mean
from verglas.algorithms.resample import FourierSampler, MapPose
from verglas.kernels.so3 import rotation_from_vector

__all__ = ["information", "place_values", "refine_pose", "weighted_correlation"]

# Perfect shells (simulations without noise) must not outweigh all others.
_MIN_UNEXPLAINED = 0.02
_STOP_ANGLE_RAD = math.radians(0.002)
_STOP_LENGTH_FRACTION = 1e-5
_TINY = 1e-30


def _map_frequencies(band: ReferenceBand, pose: MapPose) -> Tensor:
    """Frequencies at which the moving map's transform is read, `[n, 3]`."""
    turn = pose.rotation_map_to_ref @ pose.mirror() * pose.pixel_size_factor
    return band.frequencies_per_angst @ turn.to(band.frequencies_per_angst)


def _shift_phase(band: ReferenceBand, pose: MapPose) -> Tensor:
    turns = band.frequencies_per_angst @ pose.shift_angst.to(band.frequencies_per_angst)
    return torch.polar(torch.ones_like(turns), -2 * math.pi * (turns % 1)).to(band.values.dtype)


def place_values(band: ReferenceBand, sampler: FourierSampler, pose: MapPose) -> Tensor:
    """Read the moving map's transform at the reference's components, `[n]`."""
    return sampler.read(_map_frequencies(band, pose)) * _shift_phase(band, pose)


def information(correlation: Tensor) -> Tensor:
    """Weight of the cross term in the log-likelihood, `F / (1 - F^2)`; never negative."""
    kept = correlation.clamp(min=0)
    return kept / (1 - kept.square()).clamp(min=_MIN_UNEXPLAINED)


def weighted_correlation(correlation: Tensor, weights: Tensor, band: ReferenceBand) -> float:
    """Average a shell correlation over components with shell weights."""
    counts = torch.bincount(band.shell, minlength=band.n_shells).to(weights.device)
    total = (weights * counts).to(correlation.device)
    return float((total * correlation).sum() / total.sum().clamp(min=1e-12))


@dataclass(frozen=True)
class _Step:
    normal: Tensor
    gradient: Tensor


def _normal_equations(
    band: ReferenceBand, sampler: FourierSampler, pose: MapPose, *, fit_scale: bool
) -> _Step:
    """Linearise about a pose: turn (3, rad), shift (3, Å) and log pixel size factor."""
    q = _map_frequencies(band, pose)
    raw, slope = sampler.read_gradient(q)
    phase = _shift_phase(band, pose)
    value = raw * phase
    k = band.frequencies_per_angst.to(value.dtype)
    turn = (pose.rotation_map_to_ref @ pose.mirror() * pose.pixel_size_factor).to(value)
    # The derivative by k in the reference's frame; a small turn w moves k by k x w.
    slope_ref = (slope * phase[:, None]) @ turn.T
    columns = [torch.linalg.cross(slope_ref, k), -2j * math.pi * value[:, None] * k]
    if fit_scale:
        columns.append((slope_ref * k).sum(-1, keepdim=True))
    jacobian = torch.cat(columns, dim=1)
    correlation = shell_correlation(value, band)
    deviation = shell_mean(value.abs().square(), band).clamp(min=_TINY).sqrt()
    deviation_reference = shell_mean(band.values.abs().square(), band).clamp(min=_TINY).sqrt()
    # Whitened, per component: the reference is `slope * b + noise`, slope the correlation.
    shell = band.shell
    gain = (correlation / deviation)[shell].to(value.real.dtype)[:, None]
    residual = band.values / deviation_reference[shell].to(gain.dtype) - value * gain[:, 0]
    weight = (information(correlation) / correlation.clamp(min=_TINY)).sqrt()[shell].to(gain.dtype)
    # Real and imaginary parts are separate observations.
    rows = torch.view_as_real(jacobian * (gain * weight[:, None])).transpose(1, 2).flatten(0, 1)
    target = torch.view_as_real(residual * weight).flatten()
    return _Step(normal=(rows.mT @ rows).double(), gradient=(rows.mT @ target).double())


def _moved(pose: MapPose, update: Tensor) -> MapPose:
    turn = rotation_from_vector(update[None, :3])[0]
    scale = math.exp(float(update[6])) if update.numel() > 6 else 1.0
    return dataclasses.replace(
        pose,
        rotation_map_to_ref=turn @ pose.rotation_map_to_ref,
        shift_angst=pose.shift_angst + update[3:6],
        pixel_size_factor=pose.pixel_size_factor * scale,
    )


def refine_pose(
    band: ReferenceBand,
    sampler: FourierSampler,
    pose: MapPose,
    *,
    fit_scale: bool = False,
    max_iterations: int = 8,
) -> MapPose:
    """Maximise the weighted correlation over turn, shift and, if asked, pixel size.

    Levenberg-Marquardt: a step that lowers the correlation (with the weights of the current
    pose) is refused and the damping raised.

    References:
        Levenberg 1944, doi:10.1090/qam/10666.
    """
    damping = 1e-3
    correlation = shell_correlation(place_values(band, sampler, pose), band)
    step = _normal_equations(band, sampler, pose, fit_scale=fit_scale)
    for _ in range(max_iterations):
        weights = information(correlation)
        damped = step.normal + damping * torch.diag(step.normal.diagonal() + 1e-12)
        update = torch.linalg.solve(damped, step.gradient).cpu()
        trial = _moved(pose, update)
        trial_correlation = shell_correlation(place_values(band, sampler, trial), band)
        before = weighted_correlation(correlation, weights, band)
        after = weighted_correlation(trial_correlation, weights, band)
        small = (
            float(update[:3].norm()) < _STOP_ANGLE_RAD
            and float(update[3:6].norm()) < _STOP_LENGTH_FRACTION * band.length_angst
        )
        if after >= before:
            pose, correlation, damping = trial, trial_correlation, damping / 5
            if small:
                break
            step = _normal_equations(band, sampler, pose, fit_scale=fit_scale)
        elif small or damping > 1e3:
            break
        else:
            damping = damping * 10
    return pose
