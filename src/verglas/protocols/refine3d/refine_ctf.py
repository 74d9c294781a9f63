"""Refine defocus, astigmatism and aberrations from particles of known pose.

Each particle is compared with the projection of its half's map at its pose, less what the
particle itself put there. The defocus of each
particle, or of each micrograph, and the micrograph's astigmatism follow from how the contrast
of the two agrees at each frequency; what all particles of an optics group share (beam tilt,
trefoil, Cs and tetrafoil, anisotropic magnification) from their sums at each coefficient.

Start with defocus and beam tilt; add the others when the map reaches 3.5 Å, one or two at a
time. Then refine or reconstruct again. Refinement takes phases into account, reconstruction
the magnification as well.
"""

from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from verglas.core.errors import PortError
from verglas.model import PARTICLES, VOLUMES, DataSet
from verglas.protocols._particles import ParticleStack, aberrations_of, read_stack
from verglas.protocols._poses import diameter_of
from verglas.protocols.refine3d._pairs import (
    DEFOCUS,
    POSE,
    PairConfig,
    add_phases,
    calibrate,
    fit_particles,
    linearise,
    remember_ctf,
)
from verglas.sdk import ArrayRef, Context, Params, Ports, param, port, protocol

if TYPE_CHECKING:
    from torch import Tensor

    from verglas.algorithms.aberrations import Aberrations

__all__ = ["Inputs", "Outputs", "RefineCtfParams", "run"]

_ID = "particles.refine_ctf"
_CHUNK = 2000
_CALIBRATION = 2000  # particles that tell grey scale and noise
_ASTIGMATISM_STEPS = 2
_PRIOR_ANGST = (300.0, 300.0, 300.0)  # of a micrograph's mean defocus and astigmatism
_PRIOR_MAGNIFICATION = 0.05
_COMA = ((-1, 1), (1, 1), (-1, 3), (1, 3))
_TREFOIL = ((-3, 3), (3, 3))


class RefineCtfParams(Params):
    """What to refine, and how far."""

    defocus: Literal["particle", "micrograph", "none"] = param(
        "particle", help="Refine the defocus of each particle, or of each micrograph."
    )
    astigmatism: bool = param(False, help="Refine the astigmatism of each micrograph.")
    beam_tilt: bool = param(True, help="Refine the beam tilt of each optics group.")
    trefoil: bool = param(False, help="Refine the trefoil of each optics group.")
    fourth_order: bool = param(
        False, help="Refine Cs, tetrafoil and the like of each optics group."
    )
    magnification: bool = param(
        False, help="Refine the anisotropic magnification of each optics group."
    )
    range_angst: float = param(2000.0, gt=0, help="Largest change of a particle's defocus.")
    spread_angst: float = param(
        300.0,
        gt=0,
        help="Standard deviation of the defocus of particles within a micrograph: the thickness "
        "of the ice.",
    )
    lowest_resolution_angst: float = param(
        30.0, gt=0, advanced=True, help="Leave out what is coarser than this."
    )
    max_resolution_angst: float = param(
        0.0, ge=0, help="Use no data beyond this resolution; 0 for that of the half maps."
    )
    diameter_angst: float | None = param(
        None, gt=0, help="Diameter of the particle, for maps without a mask."
    )
    rounds: int = param(2, ge=1, le=10, advanced=True, help="How often everything is refined.")


class Inputs(Ports):
    """Particles with poses and half sets, and the map that these belong to."""

    particles: DataSet = port(PARTICLES, needs=("optics", "ctf", "pose3d", "half_set"))
    volumes: DataSet = port(VOLUMES, needs=("half_maps",))


class Outputs(Ports):
    """The particles with better CTF and aberrations."""

    particles: DataSet = port(PARTICLES)


def _half_maps(ctx: Context, inputs: Inputs, stack: ParticleStack, diameter: float) -> Any:
    """Read the half maps of the first map, masked, and the mask."""
    import torch

    from verglas.io.mrc import read_mrc
    from verglas.kernels.masks import soft_sphere

    row = inputs.volumes.rows(with_optics=True).row(0, named=True)
    arrays = [read_mrc(ctx.path(row[f"half_map_{half}_path"])) for half in (1, 2)]
    shape = (stack.box_px,) * 3
    pixel = row.get("pixel_size_angst") or arrays[0][1]
    wrong_pixel = pixel is None or abs(pixel / stack.pixel_size_angst - 1) > 0.005
    if arrays[0][0].shape != shape or wrong_pixel:
        raise PortError(
            f"{_ID}: half maps are {arrays[0][0].shape[0]} px of {pixel} Å, expected "
            f"{stack.box_px} px of {stack.pixel_size_angst:g} Å as the particles",
            "reconstruct the map from these particles first",
        )
    halves = torch.stack([torch.from_numpy(array) for array, _ in arrays])
    if row.get("mask_path"):
        mask = torch.from_numpy(read_mrc(ctx.path(row["mask_path"]))[0])
        if tuple(mask.shape) == shape:
            return halves * mask, mask
    radius = min(0.55 * diameter / stack.pixel_size_angst, 0.45 * stack.box_px)
    mask = soft_sphere(stack.box_px, radius, max(4.0, 10 / stack.pixel_size_angst))
    return halves * mask, mask


def _radius(params: RefineCtfParams, stack: ParticleStack, halves: "Tensor") -> int:
    """Return the last shell in use: where the half maps still agree, or what was asked for."""
    import torch

    from verglas.algorithms.em.prior import half_map_fsc, last_shell_above

    extent = stack.box_px * stack.pixel_size_angst
    largest = (stack.box_px - 1) // 2
    if params.max_resolution_angst:
        return max(4, min(largest, int(extent / params.max_resolution_angst)))
    fsc = half_map_fsc(halves, torch.ones(halves.shape[1:]), n_shells=largest + 1)
    return max(4, min(largest, last_shell_above(fsc, 0.143)))


def _prepare(
    ctx: Context, params: RefineCtfParams, stack: ParticleStack, halves: "Tensor"
) -> tuple[PairConfig, ArrayRef]:
    """Find grey scale and noise, and put the maps aside with them."""
    import numpy as np

    config = PairConfig(
        box=stack.box_px,
        pixel_size_angst=stack.pixel_size_angst,
        radius=_radius(params, stack, halves),
        range_angst=params.range_angst,
        spread_angst=params.spread_angst,
        fits_magnification=params.magnification,
    )
    ones = np.ones(config.radius + 1)
    arrays = {
        "halves": halves.numpy(),
        "factor": ones,
        "noise_power": ones,
        "own_part": np.zeros_like(ones),
    }
    rows = remember_ctf(stack.rows)
    sample = rows.sample(min(rows.height, _CALIBRATION), seed=ctx.seed).sort("item_id")

    def calibrated(*, is_crossed: bool) -> Any:
        return ctx.accumulate(
            calibrate,
            sample,
            chunk=_CHUNK,
            config=config,
            maps=ctx.put(arrays),
            is_crossed=is_crossed,
        ).sums[None]

    own, other = calibrated(is_crossed=False), calibrated(is_crossed=True)
    # the noise of an image is in its own half's map only
    excess = (own["cross"] - other["cross"]) / np.maximum(own["own"], 1e-30)
    arrays["own_part"] = np.maximum(excess, 0)
    sums = calibrated(is_crossed=False)
    power = np.maximum(sums["power"], 1e-30)
    rest = sums["data"] - sums["cross"] ** 2 / power
    noise = np.maximum(rest, 1e-30) / np.maximum(sums["count"], 1) / 2
    extent = config.box * config.pixel_size_angst
    noise[: int(np.ceil(extent / params.lowest_resolution_angst))] = np.inf
    arrays |= {"factor": np.maximum(sums["cross"] / power, 0), "noise_power": noise}
    return config, ctx.put(arrays)


def _moved(rows: pl.DataFrame, change: pl.DataFrame) -> pl.DataFrame:
    """Add changes of mean defocus and astigmatism (`d0`, `d1`, `d2`) by item."""
    rows = rows.join(change, on="item_id", how="left", maintain_order="left")
    u, v = pl.col("defocus_u_angst"), pl.col("defocus_v_angst")
    twice = (2 * pl.col("defocus_angle_deg")).radians()
    d0, d1, d2 = (pl.col(f"d{i}").fill_null(0.0) for i in range(3))
    cosine, sine = (u - v) / 2 * twice.cos() + d1, (u - v) / 2 * twice.sin() + d2
    mean, half = (u + v) / 2 + d0, (cosine**2 + sine**2).sqrt()
    angle = pl.arctan2(sine, cosine).degrees() / 2
    return rows.with_columns(
        defocus_u_angst=mean + half,
        defocus_v_angst=mean - half,
        defocus_angle_deg=pl.when(angle < 0).then(angle + 180).otherwise(angle),
    ).drop("d0", "d1", "d2")


def _particle_defocus(
    ctx: Context, rows: pl.DataFrame, config: PairConfig, maps: ArrayRef
) -> pl.DataFrame:
    fit = ctx.map(fit_particles, rows, chunk=_CHUNK, config=config, maps=maps)
    change = fit.select("item_id", d0="offset_angst", d1=pl.lit(0.0), d2=pl.lit(0.0))
    moved = _moved(rows.drop("defocus_std_angst", strict=False), change)
    std = fit.select("item_id", "defocus_std_angst")
    return moved.join(std, on="item_id", how="left", maintain_order="left")


def _micrograph_ctf(
    ctx: Context,
    rows: pl.DataFrame,
    params: RefineCtfParams,
    config: PairConfig,
    maps: ArrayRef,
) -> pl.DataFrame:
    """Solve the equations of each micrograph, twice since they are linearised."""
    import numpy as np

    from verglas.algorithms.aberration_fit import solve_ridge

    prior = np.array(_PRIOR_ANGST) * (1.0, *(2 * [1.0 if params.astigmatism else 1e-6]))
    name = next(n for n in ("micrograph_id", "micrograph_path", "optics_group") if n in rows)
    for _ in range(_ASTIGMATISM_STEPS):
        equations = ctx.map(linearise, rows, chunk=_CHUNK, config=config, maps=maps)
        parts = equations.join(rows.select("item_id", name), on="item_id")
        sums = parts.drop("item_id").group_by(name, maintain_order=True).sum()
        numbers = sums.drop(name).to_numpy()
        solution, _ = solve_ridge(numbers[:, :3], numbers[:, 3:].reshape(-1, 3, 3), prior)
        solved = sums.select(name).with_columns(
            **{f"d{i}": pl.Series(solution[:, i].copy()) for i in range(3)}
        )
        change = rows.select("item_id", name).join(solved, on=name, nulls_equal=True)
        rows = _moved(rows, change.drop(name))
    return rows


def _with_aberrations(rows: pl.DataFrame, found: "dict[int, Aberrations]") -> pl.DataFrame:
    """Write the aberrations of each optics group into its rows."""
    constants = rows.select("optics_group", "voltage_kv", "spherical_aberration_mm").unique()
    table = []
    for row in constants.iter_rows(named=True):
        of_group = found[row["optics_group"]]
        columns = of_group.to_row(row["voltage_kv"], row["spherical_aberration_mm"])
        table.append({"optics_group": row["optics_group"]} | columns)
    changed = pl.DataFrame(table)
    if not any(of_group.even for of_group in found.values()):
        changed = changed.drop("even_zernike")
    if not any(of_group.is_magnified for of_group in found.values()):
        changed = changed.drop(name for name in changed.columns if "magnification" in name)
    names = [name for name in changed.columns if name != "optics_group"]
    rows = rows.drop(names, strict=False)
    return rows.join(changed, on="optics_group", how="left", maintain_order="left")


def _group_aberrations(
    ctx: Context,
    rows: pl.DataFrame,
    params: RefineCtfParams,
    config: PairConfig,
    maps: ArrayRef,
) -> pl.DataFrame:
    """Add up the particles of each optics group and fit what they share."""
    sums = ctx.accumulate(
        add_phases, rows, chunk=_CHUNK, by="optics_group", config=config, maps=maps
    ).sums
    known, _ = aberrations_of(rows)
    groups = rows["optics_group"].unique(maintain_order=True).to_list()
    found = {
        group: _improved(before, sums[group], params, config)
        for group, before in zip(groups, known, strict=True)
    }
    return _with_aberrations(rows, found)


def _improved(
    before: "Aberrations", sums: dict[str, Any], params: RefineCtfParams, config: PairConfig
) -> "Aberrations":
    import numpy as np

    from verglas.algorithms.aberration_fit import fit_even, fit_odd, solve_ridge
    from verglas.algorithms.aberrations import EVEN_TERMS, Aberrations
    from verglas.kernels.disc import half_disc

    disc = half_disc(config.box, config.radius)
    pixels = disc.frequencies_px.double().numpy()
    frequencies = pixels @ before.matrix.T / (config.box * config.pixel_size_angst)
    odd_terms = (_COMA if params.beam_tilt else ()) + (_TREFOIL if params.trefoil else ())
    odd, even, matrix = before.odd, before.even, before.magnification
    if odd_terms:
        odd = _added(odd, fit_odd(sums, frequencies, odd_terms)[0])
    if params.fourth_order:
        even = _added(even, fit_even(sums, frequencies, EVEN_TERMS)[0])
    if params.magnification:
        prior = np.full(4, _PRIOR_MAGNIFICATION)
        step, _ = solve_ridge(sums["slope"], sums["information"], prior)
        xx, xy, yx, yy = (float(v) for v in np.array(matrix) + step)
        matrix = (xx, xy, yx, yy)
    return Aberrations(odd, even, matrix)


def _added(before: tuple[float, ...], change: Any) -> tuple[float, ...]:
    padded = list(before) + [0.0] * (len(change) - len(before))
    return tuple(float(a + b) for a, b in zip(padded, change, strict=True))


@protocol(
    _ID,
    version=1,
    label="Refine CTF and aberrations",
    citations=("10.7554/eLife.42166", "10.1107/S2052252520000081"),
)
def run(ctx: Context, params: RefineCtfParams, inputs: Inputs) -> Outputs:
    """Calibrate the maps, then refine what is asked for, in turn."""
    extra = (*POSE, "half_set", "micrograph_id", "micrograph_path")
    stack = read_stack(inputs.particles, extra=extra, needed_by=_ID)
    _check_poses(stack.rows)
    extent = stack.box_px * stack.pixel_size_angst
    diameter = diameter_of(params.diameter_angst, inputs.particles, extent)
    halves, _ = _half_maps(ctx, inputs, stack, diameter)
    rows = remember_ctf(stack.rows)
    config, maps = _prepare(ctx, params, stack, halves)
    ctx.metric("used_resolution_angst", round(extent / config.radius, 2))
    shared = params.beam_tilt or params.trefoil or params.fourth_order or params.magnification
    for turn in range(params.rounds):
        if shared:
            rows = _group_aberrations(ctx, rows, params, config, maps)
        if params.astigmatism or params.defocus == "micrograph":
            rows = _micrograph_ctf(ctx, rows, params, config, maps)
        if params.defocus == "particle":
            rows = _particle_defocus(ctx, rows, config, maps)
        ctx.progress(turn + 1, params.rounds)
    _tell(ctx, stack.rows, rows)
    return Outputs(particles=_changed(ctx, inputs.particles, rows))


def _check_poses(rows: pl.DataFrame) -> None:
    needed = (*POSE, "half_set")
    bad = rows.filter(pl.any_horizontal(pl.col(needed).is_null()))
    if bad.height:
        raise PortError(
            f"{_ID}: {bad.height} particles lack a pose or a half set, as item {bad['item_id'][0]}",
            "select the particles that have them",
        )


def _tell(ctx: Context, before: pl.DataFrame, after: pl.DataFrame) -> None:
    """Record how much changed."""
    means = [(rows["defocus_u_angst"] + rows["defocus_v_angst"]) / 2 for rows in (before, after)]
    change = (means[1] - means[0]).abs().median()
    ctx.metric("median_defocus_change_angst", round(float(str(change)), 1))
    if "defocus_std_angst" in after:
        std = after["defocus_std_angst"].median()
        ctx.metric("median_defocus_std_angst", round(float(str(std)), 1))
    for axis in "xy":
        name = f"beam_tilt_{axis}_mrad"
        if name in after:
            ctx.metric(name, round(float(str(after[name].mean())), 3))


def _changed(ctx: Context, data: DataSet, rows: pl.DataFrame) -> DataSet:
    """Write the CTF into the table and the aberrations into the optics table."""
    from verglas.algorithms.aberrations import ABERRATION_COLUMNS

    names = [name for name in (*DEFOCUS, "defocus_std_angst") if name in rows]
    changed = rows.select("item_id", *names)
    table = data.table.drop(*names, *ABERRATION_COLUMNS, strict=False)
    table = table.join(changed.lazy(), on="item_id", how="left", maintain_order="left")
    order = [name for name in data.columns if name not in ABERRATION_COLUMNS]
    table = table.select(*order, *(name for name in names if name not in order))
    shared = [name for name in ABERRATION_COLUMNS if name in rows]
    optics = data.optics
    if shared:
        groups = rows.select("optics_group", *shared).unique("optics_group", maintain_order=True)
        optics = optics.drop(shared, strict=False)
        optics = optics.join(groups, on="optics_group", how="left", maintain_order="left")
    return ctx.dataset(PARTICLES, table, optics=optics, source=data)
