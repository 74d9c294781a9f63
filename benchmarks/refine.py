"""Measure a refinement on simulated particles, against the truth and against true poses.

    python benchmarks/refine.py --specimen apoferritin --n 1000 --box 96 \
        --pixel-size-angst 2 --snr 0.1

The SNR is of the images: variance of signal over variance of noise inside the particle. Both
halves start from the truth low-passed at `--start-angst`. Per iteration one line; at the end
pose and shift errors, the former beside their Cramer-Rao bound (and those with the true map, which
alone can reach it), resolutions of half maps, of the map against the truth and of maps made with
the true poses ("oracle"), the largest difference over shells between the FSC to the truth and
sqrt(2F/(1+F)), and CPU seconds by stage.
"""

import argparse
import dataclasses
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from verglas.algorithms.em.mstep import Sums, reconstruct, symmetrise_sums
from verglas.algorithms.em.noise import noise_window, windowed_power
from verglas.algorithms.em.plan import is_concentrated, is_local, plan
from verglas.algorithms.em.prior import half_map_fsc
from verglas.algorithms.em.references import Poses
from verglas.algorithms.em.refine import half_maps, update
from verglas.algorithms.em.refine_start import initial_state
from verglas.algorithms.em.refine_state import RefineConfig, RefineState, finished, jumped_share
from verglas.algorithms.em.step import KnownPoses, expect_half
from verglas.algorithms.pose_error import compare_poses
from verglas.algorithms.symmetry_axes import find_axes
from verglas.algorithms.views import Optics, Views, make_views
from verglas.kernels.disc import half_disc, shell_sums
from verglas.kernels.fourier import rfft3
from verglas.kernels.fsc import fourier_shell_correlation, resolution_at
from verglas.kernels.masks import soft_sphere
from verglas.kernels.pose_likelihood import pose_normals
from verglas.kernels.slices import insert_slices, volume_to_half_volume
from verglas.kernels.so3 import euler_to_matrix, matrix_to_euler, pose_distance_deg
from verglas.kernels.symmetry import symmetry_operators
from verglas.simulate import particles as simulate
from verglas.simulate.atoms import radius_angst
from verglas.simulate.noise import NoiseSpectrum
from verglas.simulate.phantom import make_phantom
from verglas.simulate.potential import potential_volume

SYMMETRY = {"apoferritin": "O", "asymmetric": "C1"}
B_FACTOR_ANGST2 = 40.0
CPU_S: dict[str, float] = defaultdict(float)


@contextmanager
def counted(stage: str) -> Iterator[None]:
    """Add the CPU seconds of a block to its stage."""
    start = time.process_time()
    yield
    CPU_S[stage] += time.process_time() - start


@dataclasses.dataclass(frozen=True)
class Particles:
    """Simulated images with what is known of them, `truth` on their scale."""

    images: Tensor
    optics: Optics
    rotations: Tensor
    shifts_angst: Tensor
    truth: Tensor
    diameter_angst: float


def simulated(options: argparse.Namespace) -> Particles:
    """Simulate the set and the volume it was made from."""
    atoms = make_phantom(options.specimen)
    config = simulate.ParticleConfig(
        options.n,
        options.box,
        simulate.Optics(options.pixel_size_angst),
        snr=options.snr,
        b_factor_angst2=B_FACTOR_ANGST2,
        noise=NoiseSpectrum(options.coloured),
        seed=options.seed,
    )
    made = simulate.simulate_particles(atoms, config)
    table = made.table
    one = torch.ones(options.n, dtype=torch.float64)

    def columns(*names: str) -> Tensor:
        return torch.from_numpy(table.select(*names).to_numpy().copy())

    truth = potential_volume(
        atoms,
        box_px=options.box,
        pixel_size_angst=options.pixel_size_angst,
        b_factor_angst2=B_FACTOR_ANGST2,
    )
    angles = columns("angle_rot_deg", "angle_tilt_deg", "angle_psi_deg")
    return Particles(
        images=torch.from_numpy(made.images),
        optics=Optics(
            columns("defocus_u_angst")[:, 0],
            columns("defocus_v_angst")[:, 0],
            columns("defocus_angle_deg")[:, 0],
            columns("phase_shift_deg")[:, 0],
            one * config.optics.voltage_kv,
            one * config.optics.spherical_aberration_mm,
            one * config.optics.amplitude_contrast,
        ),
        rotations=euler_to_matrix(angles),
        shifts_angst=columns("shift_x_angst", "shift_y_angst"),
        truth=truth * (made.signal_scale or 1.0),
        diameter_angst=options.diameter_angst or 2 * radius_angst(atoms),
    )


def views_of(
    particles: Particles, config: RefineConfig, state: RefineState | None, half: int
) -> Views:
    """Make the views of one half set; all belong to one noise group."""
    chosen = torch.arange(half, len(particles.images), 2)
    return make_views(
        particles.images[chosen],
        optics=particles.optics.take(chosen),
        noise_power=state.noise_power if state else torch.ones(1, config.max_radius + 1),
        scale=state.scale if state else torch.ones(1),
        group=torch.zeros(len(chosen), dtype=torch.long),
        disc=half_disc(config.box, config.max_radius),
        pixel_size_angst=config.pixel_size_angst,
    )


def image_power(particles: Particles, config: RefineConfig) -> Tensor:
    """Return the power of the images by shell, `[1, s]`: noise and, at the start, signal."""
    views = views_of(particles, config, None, 0)
    window = noise_window(views.disc, 0.5 * config.diameter_angst / config.pixel_size_angst)
    power = windowed_power(views.data, window).mean(0)
    power = power / shell_sums(torch.ones(1, views.disc.n_coefficients), views.disc)[0]
    power[0] = power[1]
    return power.float()[None]


def expectations(
    particles: Particles,
    config: RefineConfig,
    state: RefineState,
    known: list[KnownPoses],
    *,
    final: bool,
) -> tuple[list[Poses], dict[int, Sums]]:
    """Run the expectation step of both halves."""
    search = plan(config, state, final=final)
    poses, sums = [], {}
    for half in (0, 1):
        with counted("views"):
            views = views_of(particles, config, state, half).prefix(search.radius)
        with counted("expectation"):
            found, sums[half] = expect_half(config, state, views, half, known[half], final=final)
        poses.append(found)
    kind = "vicinity" if is_local(state) else "continuous" if search.polish else "grid"
    levels = " ".join(f"{x.step_deg:.3g}/{x.radius}/{len(x.shifts_angst)}" for x in search.levels)
    print(f"  {kind}, shells {search.radius}; step/radius/shifts {levels}", flush=True)
    return poses, sums


def pose_errors(
    particles: Particles, config: RefineConfig, poses: list[Poses]
) -> tuple[Tensor, Tensor]:
    """Angles (after alignment) and shift distances to the truth, of both halves."""
    found = torch.cat([p.rotation_ref_to_img for p in poses])
    order = torch.cat([torch.arange(h, len(particles.images), 2) for h in (0, 1)])
    agreement = compare_poses(
        matrix_to_euler(found).numpy(),
        matrix_to_euler(particles.rotations[order]).numpy(),
        symmetry=config.symmetry,
    )
    shift = torch.cat([p.shift_angst for p in poses]) - particles.shifts_angst[order]
    return torch.from_numpy(agreement.errors_deg), shift.norm(dim=1)


def pose_limit_deg(particles: Particles, config: RefineConfig, state: RefineState) -> float:
    """Median angle error at the Cramer-Rao bound: true map and poses, shells that are resolved."""
    radius = min(state.shell + 1, config.max_radius)
    half_volume = volume_to_half_volume(
        particles.truth[None], radius=radius, padding=config.padding
    )[0]
    lengths = []
    for half in (0, 1):
        views = views_of(particles, config, state, half).prefix(radius)
        index = torch.arange(half, len(particles.images), 2)
        signal, weight = views.whitened()
        normal = pose_normals(
            half_volume,
            signal,
            weight,
            particles.rotations[index],
            particles.shifts_angst[index] / config.pixel_size_angst,
            views.disc.frequencies_px,
            box=config.box,
            padding=config.padding,
        ).normal
        factor = torch.linalg.cholesky(torch.linalg.inv(normal)[:, :3, :3])
        generator = torch.Generator().manual_seed(half)
        drawn = torch.randn(len(index), 200, 3, generator=generator, dtype=torch.float64)
        lengths.append((drawn @ factor.mT).norm(dim=2).flatten())
    return float(torch.cat(lengths).rad2deg().median())


def with_true_map(
    particles: Particles, config: RefineConfig, state: RefineState, found: list[Poses]
) -> float:
    """Median angle error when the last iteration compares with the true map."""
    true = dataclasses.replace(state, half_maps=torch.stack([particles.truth] * 2))
    known = [KnownPoses(p.rotation_ref_to_img, p.shift_angst) for p in found]
    poses, _ = expectations(particles, config, true, known, final=False)
    return float(pose_errors(particles, config, poses)[0].median())


def oracle_sums(
    particles: Particles, config: RefineConfig, state: RefineState, half: int, radius: int
) -> Sums:
    """Insert the images of a half at their true poses."""
    views = views_of(particles, config, state, half).prefix(radius)
    index = torch.arange(half, len(particles.images), 2)
    signal, weight = views.shifted(particles.shifts_angst[index]).whitened()
    sums = Sums.zeros(1, 1, radius, padding=config.padding, planar=False)
    insert_slices(
        signal,
        weight,
        particles.rotations[index],
        views.disc.frequencies_px,
        radius=radius,
        padding=config.padding,
        into=(sums.numerator[0], sums.denominator[0]),
    )
    return sums


@dataclasses.dataclass(frozen=True)
class Curves:
    """FSC of two half maps, and of their mean to the truth, inside a soft sphere."""

    half: Tensor
    truth: Tensor

    def resolutions(self, config: RefineConfig) -> tuple[float, float]:
        """Return where the halves fall to 0.143 and the mean to 0.5, in Å."""
        scale = {"box": config.box, "pixel_size_angst": config.pixel_size_angst}
        at_half = resolution_at(self.half[None], 0.143, **scale)
        return float(at_half), float(resolution_at(self.truth[None], 0.5, **scale))

    @property
    def worst_difference(self) -> float:
        """Largest |FSC_truth - sqrt(2F/(1+F))| over shells until F falls below 0.143."""
        alive = (self.half > 0.143).cumprod(0).bool()
        alive[:2] = False
        f = self.half[alive]
        return float((self.truth[alive] - (2 * f / (1 + f)).sqrt()).abs().max()) if len(f) else 0.0


def curves_of(config: RefineConfig, halves: Tensor, truth: Tensor, radius: int) -> Curves:
    """Correlate half maps and truth."""
    pixel = config.pixel_size_angst
    mask = soft_sphere(config.box, config.mask_radius_angst / pixel, 10.0 / pixel)
    fsc = half_map_fsc(halves, mask, n_shells=radius + 1)
    mean_ft, truth_ft = rfft3((halves.mean(0) * mask)[None]), rfft3((truth * mask)[None])
    return Curves(fsc, fourier_shell_correlation(mean_ft, truth_ft, n_shells=radius + 1)[0])


def updated(
    config: RefineConfig,
    state: RefineState,
    sums: dict[int, Sums],
    known: list[KnownPoses],
    poses: list[Poses],
) -> RefineState:
    """Make new maps; say how many particles jumped."""
    before = torch.cat([p.rotations_ref_to_img for p in known])
    after = torch.cat([p.rotation_ref_to_img for p in poses])
    return update(
        config,
        state,
        sums,
        step_deg=plan(config, state).levels[-1].step_deg,
        effective_cells=float(torch.cat([p.effective_cells for p in poses]).median()),
        searched=is_concentrated(state) and not is_local(state),
        jumped=jumped_share(config, before, after) if state.iteration else 1.0,
    )


def refined(
    particles: Particles, config: RefineConfig, options: argparse.Namespace
) -> tuple[RefineState, list[Poses], Tensor]:
    """Refine to the end and return the last state, poses and raw half maps."""
    state = initial_state(config, particles.truth, image_power(particles, config))
    known = [KnownPoses.none(len(range(h, len(particles.images), 2))) for h in (0, 1)]
    while True:
        done = finished(config, state)
        poses, sums = expectations(particles, config, state, known, final=done)
        if done:
            return state, poses, half_maps(config, sums)
        with counted("maximisation"):
            state = updated(config, state, sums, known, poses)
        known = [KnownPoses(p.rotation_ref_to_img, p.shift_angst) for p in poses]
        angle, shift = pose_errors(particles, config, poses)
        print(
            f"{state.iteration:3d}  {state.resolution_angst(config):6.2f} Å  "
            f"pose {float(angle.median()):6.3f} deg  shift {float(shift.median()):5.2f} Å  "
            f"cells {state.effective_cells:5.1f}  sd {state.shift_prior_angst:.2f} Å  "
            f"noise {float(state.noise_power[0, 2:].mean() * 2 / config.box**2):.3f}",
            flush=True,
        )


def report(
    particles: Particles, config: RefineConfig, state: RefineState, found: list[Poses], raw: Tensor
) -> None:
    """Print the final figures."""
    radius = config.max_radius
    angle, shift = pose_errors(particles, config, found)
    print(
        f"pose error median {float(angle.median()):.3f} deg, 90 % below "
        f"{float(angle.quantile(0.9)):.2f}, beyond 10 deg {float((angle > 10).double().mean()):.1%}"
        f"; shift error median {float(shift.median()):.3f} Å"
    )
    limit = pose_limit_deg(particles, config, state)
    ideal = with_true_map(particles, config, state, found)
    print(
        f"Cramer-Rao bound of it {limit:.3f} deg, ratio {float(angle.median()) / limit:.2f}; "
        f"compared with the true map {ideal:.3f} deg, ratio {ideal / limit:.2f}"
    )
    operators = symmetry_operators(config.symmetry)
    oracle = []
    for half in (0, 1):
        sums = oracle_sums(particles, config, state, half, radius)
        pair = symmetrise_sums(sums.numerator[0], sums.denominator[0], operators)
        oracle.append(reconstruct(*pair, radius=radius, box=config.box, padding=config.padding))
    for name, halves in (("refined", raw), ("oracle", torch.stack(oracle))):
        curves = curves_of(config, halves, particles.truth, radius)
        at_half, at_truth = curves.resolutions(config)
        print(
            f"{name:8s} half maps {at_half:.2f} Å, to truth {at_truth:.2f} Å, "
            f"worst |FSC_truth - sqrt(2F/(1+F))| {curves.worst_difference:.3f}"
        )
    for stage, seconds in CPU_S.items():
        print(f"{stage:14s} {seconds:8.1f} CPU s")


def report_axes(config: RefineConfig, state: RefineState, raw: Tensor, symmetry: str) -> None:
    """Print how well the map obeys the group of the atoms, which the refinement was not told."""
    radius = max(8, int(config.box * config.pixel_size_angst / state.resolution_angst(config)))
    soft = soft_sphere(
        config.box, config.mask_radius_angst / config.pixel_size_angst, 10 / config.pixel_size_angst
    )
    axes = find_axes(
        raw.mean(0) * soft,
        symmetry=symmetry,
        radius=min(radius, config.max_radius),
        generator=torch.Generator().manual_seed(0),
    )
    operators = symmetry_operators(symmetry)
    off = pose_distance_deg(axes.rotation_map_to_ref[None], torch.eye(3)[None].double(), operators)
    print(f"axes of {symmetry} {float(off[0]):.3f} deg off, score {axes.score:.3f}")


def main() -> None:
    """Read the options, refine and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--specimen", choices=sorted(SYMMETRY), default="apoferritin")
    parser.add_argument("--symmetry", default="", help="to refine with; that of the atoms if empty")
    parser.add_argument("--n", type=int, default=1000, help="particles, both halves together")
    parser.add_argument("--box", type=int, default=96)
    parser.add_argument("--pixel-size-angst", type=float, default=2.0)
    parser.add_argument("--snr", type=float, default=0.1)
    parser.add_argument("--coloured", type=float, default=0.0, help="part of the noise")
    parser.add_argument("--start-angst", type=float, default=30.0)
    parser.add_argument("--diameter-angst", type=float, default=0.0, help="that of the atoms if 0")
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with counted("simulation"):
        particles = simulated(options)
    config = RefineConfig(
        box=options.box,
        pixel_size_angst=options.pixel_size_angst,
        diameter_angst=particles.diameter_angst,
        symmetry=options.symmetry or SYMMETRY[options.specimen],
        initial_low_pass_angst=options.start_angst,
        max_iterations=options.iterations,
        seed=options.seed,
    )
    print(f"{vars(options)} diameter {particles.diameter_angst:.0f} Å")
    state, poses, raw = refined(particles, config, options)
    report(particles, config, state, poses, raw)
    if config.symmetry != SYMMETRY[options.specimen]:
        report_axes(config, state, raw, SYMMETRY[options.specimen])


if __name__ == "__main__":
    main()
