"""Views drawn exactly from the model that the likelihood assumes, and their brute force."""

from dataclasses import dataclass

import numpy as np
import torch

from tests.algorithms.blobs import asymmetric_points, blob_map
from verglas.algorithms.views import Optics, make_views, shift_phases
from verglas.kernels.ctf import evaluate_ctf
from verglas.kernels.disc import half_disc, scatter_disc
from verglas.kernels.fourier import irfft2
from verglas.kernels.slices import extract_slices, image_to_half_plane, volume_to_half_volume
from verglas.kernels.so3 import euler_to_matrix

PIXEL_ANGST = 4.0


@dataclass(frozen=True)
class Setting:
    """What images are drawn from.

    Attributes:
        half_volumes: `[c, ...]`, references on the scale of the images.
        noise_power: `[g, radius + 1]`.
        scale: `[g]`.
        planar: 2D references.
    """

    box: int
    radius: int
    half_volumes: torch.Tensor
    noise_power: torch.Tensor
    scale: torch.Tensor
    planar: bool = False

    @property
    def disc(self):
        return half_disc(self.box, self.radius)


def blob_volume(box, seed=0, sigma_angst=3.0, extent=0.6):
    """An asymmetric map that fills `extent` of the box."""
    points = asymmetric_points(n=14, radius_angst=extent * box * PIXEL_ANGST / 2.4, seed=seed)
    return blob_map(points, box=box, pixel_size_angst=PIXEL_ANGST, sigma_angst=sigma_angst)


def make_setting(
    *, box=20, radius=8, n_references=1, planar=False, energy=12.0, noise=(1.0,), scale=(1.0,)
):
    """Prepare references whose slices differ from nothing by `energy` log units on average.

    Noise falls from shell to shell; each group has its level and scale.
    """
    volumes = torch.stack([blob_volume(box, seed=c) for c in range(n_references)])
    shells = torch.arange(radius + 1.0)
    power = torch.tensor(noise)[:, None] * (1 + 2 * torch.exp(-shells / 3)) * box**2 / 2
    if planar:
        half = image_to_half_plane(volumes.sum(1), radius=radius)
    else:
        half = volume_to_half_volume(volumes, radius=radius)
    disc = half_disc(box, radius)
    slices = torch.cat([extract_slices(h, in_plane(1), disc.frequencies_px) for h in half])
    # half of the mean |P|^2 / sigma^2 with a mean squared CTF of about a half
    now = 0.25 * (slices.abs().square() / power.mean(0)[disc.shell]).sum(1).mean()
    return Setting(
        box, radius, half * (energy / now).sqrt(), power, torch.tensor(scale), planar=planar
    )


def in_plane(n):
    """Rotations about z, evenly spread, `[n, 3, 3]`."""
    psi = torch.arange(n, dtype=torch.float64) * (360 / n)
    zero = torch.zeros_like(psi)
    return euler_to_matrix(torch.stack([zero, zero, psi], -1))


def astigmatic_optics(n, generator):
    """Strongly astigmatic CTFs between 0.8 and 2 µm."""
    draw = torch.rand(n, 3, generator=generator, dtype=torch.float64)
    one = torch.ones(n, dtype=torch.float64)
    mean = 8000 + 12000 * draw[:, 0]
    return Optics(
        mean + 3000 * draw[:, 1],
        mean - 3000 * draw[:, 1],
        180 * draw[:, 2],
        0 * one,
        300 * one,
        2.7 * one,
        0.1 * one,
    )


def ctf_of(optics, disc):
    return evaluate_ctf(disc.frequencies_px / (disc.box * PIXEL_ANGST), **vars(optics))


def draw_images(setting, rotations, shifts_angst, *, seed=0, group=None, reference=None, noise=1.0):
    """Draw one image for each pose; also return its optics."""
    generator = torch.Generator().manual_seed(seed)
    b, disc = len(rotations), setting.disc
    group = torch.zeros(b, dtype=torch.long) if group is None else group
    reference = torch.zeros(b, dtype=torch.long) if reference is None else reference
    optics = astigmatic_optics(b, generator)
    slices = torch.zeros(b, disc.n_coefficients, dtype=torch.complex64)
    for c in range(len(setting.half_volumes)):
        chosen = reference == c
        if chosen.any():
            volume = setting.half_volumes[c]
            slices[chosen] = extract_slices(volume, rotations[chosen], disc.frequencies_px)
    # the stored shift brings the particle back, so the image is moved the other way
    moved = shift_phases(-shifts_angst, disc, PIXEL_ANGST)
    signal = slices * ctf_of(optics, disc) * setting.scale[group][:, None] * moved
    deviation = setting.noise_power[group][:, disc.shell].sqrt() * noise
    drawn = torch.randn(b, disc.n_coefficients, 2, generator=generator) * deviation[..., None]
    images_ft = scatter_disc(signal + torch.view_as_complex(drawn), disc)
    return irfft2(images_ft, shape=(setting.box,) * 2), optics


def draw_views(setting, rotations, shifts_angst, *, group=None, **options):
    """Draw one view for each pose."""
    images, optics = draw_images(setting, rotations, shifts_angst, group=group, **options)
    group = torch.zeros(len(rotations), dtype=torch.long) if group is None else group
    return make_views(
        images,
        optics=optics,
        noise_power=setting.noise_power,
        scale=setting.scale,
        group=group,
        disc=setting.disc,
        pixel_size_angst=PIXEL_ANGST,
    )


def brute_force_loglik(images, optics, slices, shifts_angst, *, setting, group):
    """Gaussian log-likelihood of whole images, float64, relative to a prediction of nothing.

    Written with numpy's transforms of the full plane, complex and unfolded, so that no factor
    of the half-disc can hide: `-1/2 sum over all k of |X - P|^2 / E|noise|^2`.

    Returns:
        `[b, t, r]`.
    """
    disc, n = setting.disc, setting.box
    frequency = np.fft.fftfreq(n, 1 / n)
    kx, ky = np.meshgrid(frequency, frequency)
    shell = np.round(np.hypot(kx, ky)).astype(int)
    used = (shell > 0) & (shell <= setting.radius)
    to_centre = np.exp(2j * np.pi * (kx + ky) * (n // 2) / n)
    out = np.zeros((len(images), len(shifts_angst), len(slices)))
    ctf = ctf_of(optics, disc).double()
    for i, image in enumerate(images.double().numpy()):
        observed = np.fft.fft2(image) * to_centre
        # a coefficient has the variance of its real and of its imaginary part
        variance = (
            2 * setting.noise_power[group[i]].double().numpy()[np.minimum(shell, disc.radius)]
        )
        for t, shift in enumerate(shifts_angst.double().numpy()):
            moved_back = np.exp(2j * np.pi * (kx * shift[0] + ky * shift[1]) / (n * PIXEL_ANGST))
            for r, one in enumerate(slices):
                part = one.to(torch.complex128) * ctf[i] * float(setting.scale[group[i]])
                real = irfft2(scatter_disc(part[None], disc), shape=(n, n))[0].numpy()
                predicted = np.fft.fft2(real) * to_centre * moved_back
                square = np.abs(observed - predicted) ** 2 - np.abs(observed) ** 2
                out[i, t, r] = -0.5 * (square / variance)[used].sum()
    return torch.from_numpy(out)
