"""The iterations of classification in 2D: which particles, their shifts, and the state."""

from typing import TYPE_CHECKING, Any

import polars as pl

from verglas.protocols.classes2d._chunks import HALF, MASS, SHIFT, centre, expect_classes, vary
from verglas.sdk import ArrayRef, Context, State

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from verglas.algorithms.em.mstep import Sums
    from verglas.algorithms.em.planar import PlanarConfig, PlanarState

__all__ = ["expected", "iterate", "with_halves", "with_shifts"]

_CHUNK = 1000
_SMALLEST_CHUNK = 250  # what is the same for all particles is worked out once in each
_N_PARTS = 4  # each meets averages of the others: three quarters of the particles
_SAMPLE_PER_CLASS = 200
_SMALLEST_SAMPLE = 1500
_ITERATIONS_ON_ALL = 2


def _put(ctx: Context, state: "PlanarState") -> ArrayRef:
    import numpy as np

    return ctx.put({name: np.asarray(value) for name, value in state.to_arrays().items()})


def _chunk(n: int, n_parts: int = _N_PARTS) -> int:
    """Return the size of chunks of particles of some parts: two for each, but for few."""
    return max(_SMALLEST_CHUNK, min(_CHUNK, -(-n // (2 * n_parts))))


def with_halves(rows: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Part the particles at random into `_N_PARTS` sets."""
    import numpy as np

    half = np.random.default_rng(seed).permutation(rows.height) % _N_PARTS
    return rows.with_columns(pl.Series(HALF, half))


def _first_shifts(rows: pl.DataFrame) -> "NDArray[np.float64]":
    """Return the shifts that particles come with, from extraction or an earlier alignment."""
    import numpy as np

    names = ("shift_x_angst", "shift_y_angst")
    known = [
        pl.col(name).fill_null(0.0) if name in rows.columns else pl.lit(0.0).alias(name)
        for name in names
    ]
    return np.array(rows.lazy().select(pl.int_range(pl.len()), *known).collect().to_numpy()[:, 1:])


def _drawn(n: int, config: "PlanarConfig", iteration: int) -> "NDArray[np.int64]":
    """Draw the particles of an iteration; centring stays with one draw, the last take all."""
    import numpy as np

    from verglas.algorithms.em.planar import N_CENTRING

    wanted = max(_SMALLEST_SAMPLE, _SAMPLE_PER_CLASS * config.n_classes)
    if n <= wanted or iteration >= config.n_iterations - _ITERATIONS_ON_ALL:
        return np.arange(n)
    rng = np.random.default_rng([config.seed, max(0, iteration - N_CENTRING)])
    return np.sort(rng.choice(n, wanted, replace=False))


def with_shifts(rows: pl.DataFrame, shifts: "NDArray[np.float64]", part: Any) -> pl.DataFrame:
    """Give the rows of a part with their present shifts."""
    xy = {name: shifts[part, axis] for axis, name in enumerate(SHIFT)}
    taken: pl.DataFrame = rows[part].with_columns(pl.DataFrame(xy))
    return taken


def _store_shifts(rows: pl.DataFrame, shifts: "NDArray[np.float64]", found: pl.DataFrame) -> Any:
    """Put shifts that were found into their places; return the places."""
    places = rows.select("item_id").with_row_index("place")
    joined = found.join(places, on="item_id", how="left", maintain_order="left")
    place = joined["place"].to_numpy()
    shifts[place] = joined.select("shift_x_angst", "shift_y_angst").to_numpy()
    return place


def _centre_new(
    ctx: Context, rows: pl.DataFrame, config: "PlanarConfig", arrays: dict[str, Any], part: Any
) -> None:
    """Centre the particles of a part that no iteration has seen, in place."""
    from dataclasses import replace

    import torch

    from verglas.algorithms.em.planar import PlanarState

    new = part[~arrays["particle_is_centred"][part]]
    if not len(new):
        return
    ring = replace(
        PlanarState.from_arrays(arrays),
        averages=torch.as_tensor(arrays["ring"]),
        log_prior=torch.zeros(1),
        iteration=1,
        radius=config.radius_at(1),
    )
    table = with_shifts(rows, arrays["particle_shift_angst"], new)
    found = ctx.map(centre, table, chunk=_CHUNK, gpus=1, config=config, state=_put(ctx, ring))
    place = _store_shifts(rows, arrays["particle_shift_angst"], found)
    arrays["particle_is_centred"][place] = True


def iterate(
    ctx: Context, rows: pl.DataFrame, config: "PlanarConfig", noise: "Tensor"
) -> dict[str, Any]:
    """Centre, find how particles vary, and classify.

    Args:
        ctx: of the job.
        rows: of all particles, with their half sets.
        config: of the run.
        noise: `[g, s]`, first estimate.

    Returns:
        Arrays of the last state, and the shifts of the particles.
    """
    from dataclasses import replace

    import numpy as np

    from verglas.algorithms.em.planar import N_CENTRING, PlanarState, families_for
    from verglas.algorithms.em.planar_start import first_planar_state

    def step(before: State, iteration: int) -> State:
        state = PlanarState.from_arrays(before)
        families = int(before["n_families"])
        if iteration == N_CENTRING:
            families = families_for(state.evidence_loglik, config.n_classes)
            ctx.log.info("%d sets of classes form apart", families)
        return step_of(replace(config, families=families), before, iteration)

    def step_of(config: "PlanarConfig", before: State, iteration: int) -> State:
        arrays: dict[str, Any] = {
            name: value.copy() if isinstance(value, np.ndarray) else value
            for name, value in before.items()
        }
        part = _drawn(rows.height, config, iteration)
        if iteration > N_CENTRING:
            _centre_new(ctx, rows, config, arrays, part)
        table = with_shifts(rows, arrays["particle_shift_angst"], part)
        state = PlanarState.from_arrays(arrays)
        if iteration == N_CENTRING:
            arrays["ring"] = state.averages.numpy()
            state = _seeded(ctx, table, config, state)
        else:
            state = _updated(ctx, rows, table, config, state, arrays)
        if iteration < N_CENTRING:
            arrays["particle_is_centred"][part] = True
        resolution = config.extent_angst / state.radius
        ctx.progress(iteration + 1, config.n_iterations, f"{resolution:.0f} Å")
        return arrays | state.to_arrays() | {"n_families": config.families}

    first = first_planar_state(config, noise).to_arrays() | {
        "particle_shift_angst": _first_shifts(rows),
        "particle_is_centred": np.zeros(rows.height, dtype=bool),
        "ring": np.zeros(1),
        "takes_turns": False,
        "n_families": config.families,
    }
    return ctx.iterate(step, first, until=lambda s: int(s["iteration"]) >= config.n_iterations)


def _seeded(
    ctx: Context, table: pl.DataFrame, config: "PlanarConfig", state: "PlanarState"
) -> "PlanarState":
    """Draw the first class averages."""
    import torch

    from verglas.algorithms.em.planar_start import seed_classes
    from verglas.algorithms.em.steerable import RingCovariance

    found = ctx.accumulate(
        vary, table, chunk=_chunk(table.height), config=config, state=_put(ctx, state)
    )
    sums = {name: torch.as_tensor(value) for name, value in found.sums[None].items()}
    return seed_classes(config, state, RingCovariance(**sums))


def _updated(
    ctx: Context,
    rows: pl.DataFrame,
    table: pl.DataFrame,
    config: "PlanarConfig",
    state: "PlanarState",
    arrays: dict[str, Any],
) -> "PlanarState":
    """Run one iteration; the shifts of particles are changed in place."""
    import torch

    from verglas.algorithms.em.planar_update import planar_update

    found, sums = _passed(ctx, table, config, state, arrays)
    mass = torch.tensor(found[MASS].to_numpy()) if MASS in found.columns else None
    new, known = planar_update(config, state, sums, mass)
    arrays |= {"takes_turns": known is not None} | (known.to_arrays() if known else {})
    place = _store_shifts(rows, arrays["particle_shift_angst"], _followed(found, new))
    arrays["particle_is_centred"][place] = True
    ctx.log.info(
        "iteration %d, %.1f Å: evidence %.2f nats a particle, shifts %.1f Å, classes of %.1f %% "
        "to %.1f %%",
        new.iteration,
        config.extent_angst / state.radius,
        new.evidence_loglik,
        new.shift_prior_angst,
        *(100 * share for share in _extremes(found)),
    )
    return new


def _passed(
    ctx: Context,
    table: pl.DataFrame,
    config: "PlanarConfig",
    state: "PlanarState",
    arrays: dict[str, Any],
) -> "tuple[pl.DataFrame, dict[int, Sums]]":
    """Compare all particles, part by part with new averages in between where that is known."""
    from verglas.algorithms.em.planar_parts import PartSums, renewed_averages

    parts = sorted(table[HALF].unique().to_list())
    if not arrays["takes_turns"] or len(parts) < len(arrays["part_numerator"]):
        return expected(ctx, table, config, state)
    known = PartSums.from_arrays(arrays)
    sums: dict[int, Sums] = {}
    rows: list[pl.DataFrame] = []
    for part in parts:
        if rows:
            state = renewed_averages(config, state, known, part)
        found, mine = expected(ctx, table.filter(pl.col(HALF) == part), config, state)
        known = known.renewed(part, mine[part])
        sums |= mine
        rows.append(found)
    return pl.concat(rows), sums


def _extremes(found: pl.DataFrame) -> tuple[float, float]:
    """Return the shares of the smallest and the largest class that has particles."""
    counts = found["class_index"].value_counts()["count"].to_list()
    return min(counts) / found.height, max(counts) / found.height


def expected(
    ctx: Context, table: pl.DataFrame, config: "PlanarConfig", state: "PlanarState"
) -> "tuple[pl.DataFrame, dict[int, Sums]]":
    """Compare particles with averages: poses, and sums of each half set."""
    from verglas.algorithms.em.mstep import Sums

    found = ctx.accumulate(
        expect_classes,
        table,
        chunk=_chunk(table.height, table[HALF].n_unique()),
        gpus=1,
        by=HALF,
        config=config,
        state=_put(ctx, state),
    )
    sums = {half: Sums.from_arrays(arrays) for half, arrays in found.sums.items()}
    return found.rows, sums


def _followed(found: pl.DataFrame, state: "PlanarState") -> pl.DataFrame:
    """Let the shifts of particles follow their averages that were moved."""
    import torch

    from verglas.algorithms.em.planar_classes import follow_moves
    from verglas.kernels.so3 import euler_to_matrix

    psi = torch.tensor(found["angle_psi_deg"].to_numpy().copy())
    angles = torch.stack([torch.zeros_like(psi), torch.zeros_like(psi), psi], 1)
    shifts = follow_moves(
        torch.tensor(found.select("shift_x_angst", "shift_y_angst").to_numpy()),
        euler_to_matrix(angles),
        torch.tensor(found["class_index"].to_numpy().copy()),
        state.moves_angst,
    )
    return found.select("item_id").with_columns(
        shift_x_angst=pl.Series(shifts[:, 0].numpy()), shift_y_angst=pl.Series(shifts[:, 1].numpy())
    )
