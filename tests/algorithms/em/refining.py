"""Refinement of simulated particles in memory, as the protocol does it with chunks."""

from dataclasses import dataclass

import torch

from tests.algorithms.blobs import asymmetric_points, blob_map, octahedral_shell
from tests.algorithms.em.model_images import PIXEL_ANGST, Setting, draw_images
from verglas.algorithms.devices import to_device
from verglas.algorithms.em.mstep import Sums, reconstruct, symmetrise_sums
from verglas.algorithms.em.noise import noise_window, windowed_power
from verglas.algorithms.em.plan import is_concentrated, is_local, plan
from verglas.algorithms.em.prior import half_map_fsc
from verglas.algorithms.em.references import Poses
from verglas.algorithms.em.refine import half_maps, update
from verglas.algorithms.em.refine_start import initial_state
from verglas.algorithms.em.refine_state import finished, jumped_share
from verglas.algorithms.em.step import KnownPoses, expect_half
from verglas.algorithms.pose_error import compare_poses
from verglas.algorithms.views import Optics, make_views
from verglas.kernels.disc import half_disc, shell_sums
from verglas.kernels.fourier import rfft3
from verglas.kernels.fsc import fourier_shell_correlation, resolution_at
from verglas.kernels.masks import soft_sphere
from verglas.kernels.slices import insert_slices, volume_to_half_volume
from verglas.kernels.so3 import matrix_to_euler, random_rotations
from verglas.kernels.symmetry import symmetry_operators


@dataclass(frozen=True)
class Particles:
    """Images in two alternating halves, with the truth on their scale."""

    images: torch.Tensor
    optics: Optics
    rotations: torch.Tensor
    shifts_angst: torch.Tensor
    truth: torch.Tensor


def views_of(particles, config, noise_power, scale, half):
    chosen = torch.arange(half, len(particles.images), 2)
    return make_views(
        particles.images[chosen],
        optics=particles.optics.take(chosen),
        noise_power=noise_power,
        scale=scale,
        group=torch.zeros(len(chosen), dtype=torch.long),
        disc=half_disc(config.box, config.max_radius),
        pixel_size_angst=config.pixel_size_angst,
    )


def image_power(particles, config):
    """Power of the images by shell, `[1, s]`: what noise is at most."""
    views = views_of(particles, config, torch.ones(1, config.max_radius + 1), torch.ones(1), 0)
    window = noise_window(views.disc, 0.5 * config.diameter_angst / config.pixel_size_angst)
    count = shell_sums(torch.ones(1, views.disc.n_coefficients), views.disc)[0]
    power = windowed_power(views.data, window).mean(0) / count
    power[0] = power[1]
    return power.float()[None]


def expectation(particles, config, state, half, *, known=None, final=False, device="cpu"):
    views = views_of(particles, config, state.noise_power, state.scale, half)
    views = views.prefix(plan(config, state, final=final).radius)
    known = KnownPoses.none(len(views)) if known is None else known
    state, views, known = (to_device(value, device) for value in (state, views, known))
    found = expect_half(config, state, views, half, known, final=final)
    return to_device(found, "cpu")


def iterate(particles, config, state, known=(None, None), *, device="cpu"):
    """One expectation and maximisation; also the poses that it found."""
    found = [
        expectation(particles, config, state, h, known=known[h], device=device) for h in (0, 1)
    ]
    after = [KnownPoses(p.rotation_ref_to_img, p.shift_angst) for p, _ in found]
    jumped = 1.0
    if known[0] is not None:
        before, now = (
            torch.cat([poses.rotations_ref_to_img for poses in pair]) for pair in (known, after)
        )
        jumped = jumped_share(config, before, now)
    new = update(
        config,
        state,
        {half: sums for half, (_, sums) in enumerate(found)},
        step_deg=plan(config, state).levels[-1].step_deg,
        effective_cells=float(torch.cat([p.effective_cells for p, _ in found]).median()),
        searched=is_concentrated(state) and not is_local(state),
        jumped=jumped,
    )
    return new, after


@dataclass(frozen=True)
class Result:
    """States of all iterations, and what the final one found."""

    states: list
    poses: Poses
    halves: torch.Tensor
    config: object
    particles: Particles

    def pose_error_deg(self):
        """Angles to the true poses after alignment over the group."""
        truth = torch.cat([self.particles.rotations[h::2] for h in (0, 1)])
        found = matrix_to_euler(self.poses.rotation_ref_to_img).numpy()
        symmetry = self.config.symmetry
        return compare_poses(found, matrix_to_euler(truth).numpy(), symmetry=symmetry).errors_deg

    def shift_error_angst(self):
        truth = torch.cat([self.particles.shifts_angst[h::2] for h in (0, 1)])
        return (self.poses.shift_angst - truth).norm(dim=1)

    def curves(self, halves=None):
        """FSC of the halves, and of their mean to the truth, inside a soft sphere."""
        halves = self.halves if halves is None else halves
        config = self.config
        pixel = config.pixel_size_angst
        mask = soft_sphere(config.box, config.mask_radius_angst / pixel, 10.0 / pixel)
        n_shells = config.max_radius + 1
        half = half_map_fsc(halves, mask, n_shells=n_shells)
        pair = [rfft3((v * mask)[None]) for v in (halves.mean(0), self.particles.truth)]
        return half, fourier_shell_correlation(*pair, n_shells=n_shells)[0]

    def resolution_angst(self, fsc, threshold):
        return float(
            resolution_at(
                fsc[None],
                threshold,
                box=self.config.box,
                pixel_size_angst=self.config.pixel_size_angst,
            )
        )

    def oracle(self):
        """Half maps of the same images, noise and scale at the true poses."""
        return oracle_halves(self.particles, self.config, self.states[-1])


def worst_difference(half, truth):
    """Largest |FSC_truth - sqrt(2F/(1+F))| over shells until F falls below 0.143."""
    alive = (half > 0.143).cumprod(0).bool()
    alive[:2] = False
    f = half[alive]
    return float((truth[alive] - (2 * f / (1 + f)).sqrt()).abs().max()) if len(f) else 0.0


def refined(particles, config, *, volume=None, noise_power=None):
    """Refine from a volume (the truth if not given), low-passed by the configuration."""
    start = particles.truth if volume is None else volume
    noise = image_power(particles, config) if noise_power is None else noise_power
    states, known = [initial_state(config, start, noise)], (None, None)
    while not finished(config, states[-1]):
        state, known = iterate(particles, config, states[-1], known)
        states.append(state)
    last = [
        expectation(particles, config, states[-1], h, known=known[h], final=True) for h in (0, 1)
    ]
    halves = half_maps(config, {h: sums for h, (_, sums) in enumerate(last)})
    return Result(states, Poses.join([p for p, _ in last]), halves, config, particles)


def oracle_halves(particles, config, state):
    radius = config.max_radius
    maps = []
    for half in (0, 1):
        views = views_of(particles, config, state.noise_power, state.scale, half)
        signal, weight = views.shifted(particles.shifts_angst[half::2]).whitened()
        sums = Sums.zeros(1, 1, radius, padding=config.padding, planar=False)
        insert_slices(
            signal,
            weight,
            particles.rotations[half::2],
            views.disc.frequencies_px,
            radius=radius,
            padding=config.padding,
            into=(sums.numerator[0], sums.denominator[0]),
        )
        pair = symmetrise_sums(
            sums.numerator[0], sums.denominator[0], symmetry_operators(config.symmetry)
        )
        maps.append(reconstruct(*pair, radius=radius, box=config.box, padding=config.padding))
    return torch.stack(maps)


def blob_particles(symmetry, n, *, box, snr, seed=0, shift_angst=3.0):
    """Particles of a map of Gaussians, drawn exactly from the model with white noise.

    The SNR is that of variances inside the particle's circle; noise has variance 1.
    """
    extent = box * PIXEL_ANGST
    if symmetry == "O":
        points = octahedral_shell(n=6, radius_angst=0.33 * extent)
    else:
        points = asymmetric_points(n=80, radius_angst=0.21 * extent)
    volume = blob_map(points, box=box, pixel_size_angst=PIXEL_ANGST, sigma_angst=2.5)
    generator = torch.Generator().manual_seed(seed)
    rotations = random_rotations(n, generator=generator)
    shifts = shift_angst * torch.randn(n, 2, generator=generator, dtype=torch.float64)
    radius = (box - 1) // 2
    half = volume_to_half_volume(volume[None], radius=radius)
    white = torch.full((1, radius + 1), box**2 / 2)
    setting = Setting(box, radius, half, white, torch.ones(1))
    probes, _ = draw_images(setting, rotations[:50], shifts[:50], seed=seed, noise=0.0)
    axis = torch.arange(box) - box // 2
    circle = (axis[:, None].square() + axis.square()).sqrt() < 0.38 * box
    factor = (snr / probes[:, circle].var(1).mean()).sqrt() if snr else torch.tensor(0.0)
    setting = Setting(box, radius, half * factor, white, torch.ones(1))
    images, optics = draw_images(setting, rotations, shifts, seed=seed)
    return Particles(images, optics, rotations, shifts, volume * factor)
