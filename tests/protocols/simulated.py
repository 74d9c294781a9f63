"""Small simulated particle sets for tests of protocols that classify and refine."""

from dataclasses import replace
from functools import cache

import numpy as np
import polars as pl

from verglas.io.mrc import write_mrc
from verglas.model import PARTICLES, VOLUMES, make_dataset
from verglas.simulate.particles import (
    Optics,
    ParticleConfig,
    SimulatedParticles,
    optics_table,
    simulate_particles,
)
from verglas.simulate.phantom import make_phantom
from verglas.simulate.potential import potential_volume

OPTICS = Optics(pixel_size_angst=5.0)
BOX = 36


@cache
def simulated(specimen: str, n: int, snr: float, seed: int = 0) -> SimulatedParticles:
    """Particles of 36 px of 5 Å; SNR within the particle's circle."""
    config = ParticleConfig(
        n_particles=n, box_px=BOX, optics=OPTICS, snr=snr, defocus_min_angst=10000.0, seed=seed
    )
    return simulate_particles(make_phantom(specimen, 0), config)


def particles_of(root, made, *, keep_poses=False):
    """Write the stack and make its data set."""
    write_mrc(root / "p.mrcs", np.asarray(made.images), OPTICS.pixel_size_angst, is_stack=True)
    poses = ("angle_rot_deg", "angle_tilt_deg", "angle_psi_deg", "shift_x_angst", "shift_y_angst")
    rows = made.table if keep_poses else made.table.drop(*poses, strict=False)
    rows = rows.with_columns(
        image_path=pl.lit("p.mrcs"), image_slice=pl.int_range(pl.len(), dtype=pl.Int64)
    )
    return make_dataset(PARTICLES, rows, root=root, optics=optics_table(OPTICS, BOX))


def truth_of(specimen, made):
    """The map that the images are projections of."""
    volume = potential_volume(
        make_phantom(specimen, 0), box_px=BOX, pixel_size_angst=OPTICS.pixel_size_angst
    )
    return volume * made.signal_scale


def volumes_of(root, volume, **columns):
    """Write a map and make its data set."""
    write_mrc(root / "v.mrc", np.asarray(volume), OPTICS.pixel_size_angst, is_stack=False)
    rows = pl.DataFrame(
        {"image_path": ["v.mrc"], "image_slice": [0], "optics_group": [1]}
        | {name: [value] for name, value in columns.items()}
    )
    return make_dataset(VOLUMES, rows, root=root, optics=optics_table(OPTICS, BOX))


def noise_like(made, seed=0):
    """The same set without any particle."""
    images = np.random.default_rng(seed).normal(size=made.images.shape).astype(np.float32)
    return replace(made, images=images)
