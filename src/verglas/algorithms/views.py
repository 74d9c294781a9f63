"""Batches of views: what the likelihood needs to know of each particle image.

A view is the half-disc of an image's transform with its CTF and the noise variance of its
group. Nothing is masked: the reference has compact support, and the product with it masks
the image after the CTF has gathered the delocalised signal, which is exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.kernels.ctf import evaluate_ctf
from verglas.kernels.disc import HalfDisc, gather_disc
from verglas.kernels.fourier import rfft2

__all__ = ["Optics", "Views", "make_views", "shift_phases"]


@dataclass(frozen=True)
class Optics:
    """Constants of the microscope, `[b]` each, one entry per image."""

    defocus_u_angst: Tensor
    defocus_v_angst: Tensor
    defocus_angle_deg: Tensor
    phase_shift_deg: Tensor
    voltage_kv: Tensor
    spherical_aberration_mm: Tensor
    amplitude_contrast: Tensor

    def take(self, index: slice | Tensor) -> "Optics":
        """Return the entries of some images."""
        return Optics(
            self.defocus_u_angst[index],
            self.defocus_v_angst[index],
            self.defocus_angle_deg[index],
            self.phase_shift_deg[index],
            self.voltage_kv[index],
            self.spherical_aberration_mm[index],
            self.amplitude_contrast[index],
        )


@dataclass(frozen=True)
class Views:
    """Image transforms on the half-disc, with what turns them into likelihoods.

    Attributes:
        data: `[b, k]`, complex, the observed coefficients.
        ctf: `[b, k]`, transfer function times the intensity scale of the view's group.
        noise_power: `[b, radius + 1]`, noise variance of one real component by shell.
        group: `[b]`, index of the noise group.
        disc: the coefficients.
        pixel_size_angst: pixel of the image.
    """

    data: Tensor
    ctf: Tensor
    noise_power: Tensor
    group: Tensor
    disc: HalfDisc
    pixel_size_angst: float

    def __len__(self) -> int:
        return len(self.data)

    @property
    def device(self) -> torch.device:
        """Where the views are, and what is worked out from them."""
        return self.data.device

    @property
    def inverse_noise(self) -> Tensor:
        """`[b, k]`, 1 / noise variance of each coefficient."""
        return self.noise_power.reciprocal()[:, self.disc.shell]

    def whitened(self) -> tuple[Tensor, Tensor]:
        """Return `CTF X / sigma^2` and `CTF^2 / sigma^2`, `[b, k]` each."""
        weight = self.ctf * self.inverse_noise
        return self.data * weight, self.ctf * weight

    @staticmethod
    def join(parts: "Sequence[Views]") -> "Views":
        """Concatenate views of one disc and pixel size."""
        return Views(
            data=torch.cat([part.data for part in parts]),
            ctf=torch.cat([part.ctf for part in parts]),
            noise_power=torch.cat([part.noise_power for part in parts]),
            group=torch.cat([part.group for part in parts]),
            disc=parts[0].disc,
            pixel_size_angst=parts[0].pixel_size_angst,
        )

    def take(self, index: slice | Tensor) -> "Views":
        """Return some of the views."""
        return Views(
            self.data[index],
            self.ctf[index],
            self.noise_power[index],
            self.group[index],
            self.disc,
            self.pixel_size_angst,
        )

    def prefix(self, radius: int) -> "Views":
        """Return the same views up to a smaller radius."""
        disc = self.disc.prefix(radius)
        n = disc.n_coefficients
        return Views(
            self.data[:, :n],
            self.ctf[:, :n],
            self.noise_power[:, : radius + 1],
            self.group,
            disc,
            self.pixel_size_angst,
        )

    def shifted(self, shifts_angst: Tensor) -> "Views":
        """Return the views moved by their shifts, `[b, 2]`."""
        phases = shift_phases(shifts_angst, self.disc, self.pixel_size_angst)
        return Views(
            self.data * phases,
            self.ctf,
            self.noise_power,
            self.group,
            self.disc,
            self.pixel_size_angst,
        )


def shift_phases(shifts_angst: Tensor, disc: HalfDisc, pixel_size_angst: float) -> Tensor:
    """Return the phase factors that move an image by a stored shift.

    Convention: `exp(-2 pi i k . shift)`; the shift brings the particle to the box centre.

    Args:
        shifts_angst: `[t, 2]`, x and y.
        disc: the coefficients.
        pixel_size_angst: pixel of the image.

    Returns:
        `[t, k]`, complex64.
    """
    frequencies = disc.frequencies_px.to(shifts_angst.device).double()
    cycles = shifts_angst.double() @ frequencies.T / (disc.box * pixel_size_angst)
    return torch.polar(torch.ones_like(cycles), -2 * torch.pi * cycles).to(torch.complex64)


def make_views(
    images: Tensor,
    *,
    optics: Optics,
    noise_power: Tensor,
    scale: Tensor,
    group: Tensor,
    disc: HalfDisc,
    pixel_size_angst: float,
    ctf_applied: str = "full",
    b_factor_angst2: Tensor | None = None,
    odd_phase_rad: Tensor | None = None,
    even_phase_rad: Tensor | None = None,
) -> Views:
    """Transform images and work out their CTF and noise.

    Args:
        images: `[b, n, n]`, protein bright.
        optics: one entry per image.
        noise_power: `[g, radius + 1]`, by group and shell.
        scale: `[g]`, intensity scale of each group.
        group: `[b]`.
        disc: the coefficients, of box n.
        pixel_size_angst: pixel of the images.
        ctf_applied: "full", or "flipped" when the phases of the images were flipped.
        b_factor_angst2: `[g]`, envelope of each group; none by default.
        odd_phase_rad: `[b, k]`, phase that odd aberrations gave the images; it is taken off.
        even_phase_rad: `[b, k]`, what even aberrations add to the CTF's argument.

    Returns:
        The views.
    """
    if ctf_applied not in ("full", "flipped"):
        raise ValueError(f"ctf_applied must be 'full' or 'flipped': got {ctf_applied!r}")
    data = gather_disc(rfft2(images), disc)
    if odd_phase_rad is not None:
        data = data * torch.polar(torch.ones_like(odd_phase_rad), -odd_phase_rad).to(data)
    frequencies = disc.frequencies_px.to(images.device) / (disc.box * pixel_size_angst)
    ctf = evaluate_ctf(
        frequencies,
        defocus_u_angst=optics.defocus_u_angst,
        defocus_v_angst=optics.defocus_v_angst,
        defocus_angle_deg=optics.defocus_angle_deg,
        phase_shift_deg=optics.phase_shift_deg,
        voltage_kv=optics.voltage_kv,
        spherical_aberration_mm=optics.spherical_aberration_mm,
        amplitude_contrast=optics.amplitude_contrast,
        phase_offset_rad=even_phase_rad,
    )
    if ctf_applied == "flipped":
        ctf = ctf.abs()
    ctf = ctf * scale[group][:, None]
    if b_factor_angst2 is not None:
        square = frequencies.square().sum(1)
        ctf = ctf * torch.exp(-b_factor_angst2[group][:, None] * square / 4)
    return Views(
        data=data,
        ctf=ctf,
        noise_power=noise_power[group][:, : disc.radius + 1],
        group=group,
        disc=disc,
        pixel_size_angst=pixel_size_angst,
    )
