"""A stack of particles of two structures, small enough for tests of classification."""

from dataclasses import replace
from functools import cache

import numpy as np
import polars as pl

from tests.protocols.simulated import BOX, OPTICS, truth_of
from verglas.simulate.particles import ParticleConfig, simulate_particles
from verglas.simulate.phantom import make_phantom

N_EACH = 80


def _without(atoms, kept):
    return replace(atoms, **{name: value[kept] for name, value in vars(atoms).items()})


@cache
def two_structures(specimen, snr):
    """The whole specimen, and one without a fifth of its atoms.

    Of the asymmetric one those farthest along z are missing; of the symmetric one those that
    lie farthest out, so that the rest is symmetric.

    Returns:
        The set, its table with `state` 0 or 1, and the map of the whole.
    """
    atoms = make_phantom(specimen, 0)
    place = atoms.positions_angst
    far = place[:, 2] if specimen == "asymmetric" else np.linalg.norm(place, axis=1)
    part = _without(atoms, far < np.quantile(far, 0.8))
    made = []
    for state, structure in enumerate((atoms, part)):
        config = ParticleConfig(
            n_particles=N_EACH,
            box_px=BOX,
            optics=OPTICS,
            snr=snr,
            defocus_min_angst=10000.0,
            seed=state,
        )
        made.append(simulate_particles(structure, config))
    tables = [
        one.table.with_columns(
            item_id=pl.col("item_id") + state * N_EACH, state=pl.lit(state, pl.Int64)
        )
        for state, one in enumerate(made)
    ]
    whole = replace(
        made[0],
        images=np.concatenate([one.images for one in made]),
        table=pl.concat(tables).drop("state"),
    )
    return whole, pl.concat(tables).select("item_id", "state"), truth_of(specimen, made[0])
