"""Cut particles out of micrographs.

Boxes are cut at whole pixels; the rest of each position becomes the particle's shift, so that
nothing is interpolated. Grey values far from the micrograph's level are replaced by noise, the
contrast is inverted so that protein is bright, and each box is scaled so that the background
outside the particle is flat with mean 0 and deviation 1. The box may be reduced in Fourier space,
which bins the images.

A particle whose disc crosses the border of its micrograph is dropped and counted. Where only the
rim of a box leaves, the particle is kept and the rim is filled with noise like the background:
the same level and slope, deviation and power spectrum. `box_fill_fraction` says how much it was.

The box should hold the particle and its signal that the CTF spreads: 1.5 to 2 diameters.
"""

import math
from typing import TYPE_CHECKING, Any, Literal

import polars as pl
from pydantic import model_validator

from verglas.core.errors import FormatError, ParamsError, PortError, UserError
from verglas.model import COORDINATES, MICROGRAPHS, PARTICLES, DataSet
from verglas.sdk import Context, Params, Ports, Task, param, port, protocol

if TYPE_CHECKING:
    import torch

    from verglas.algorithms.extraction import ExtractConfig, Extracted
    from verglas.io.mrc import MrcMode

__all__ = ["ExtractParams", "Inputs", "Outputs", "cut", "run"]

_CTF = ("defocus_u_angst", "defocus_v_angst", "defocus_angle_deg", "phase_shift_deg")
_OPTICS = ("pixel_size_angst", "voltage_kv", "spherical_aberration_mm", "amplitude_contrast")
_SLOPE = ("defocus_slope_x", "defocus_slope_y", "image_width_px", "image_height_px")
_SHIFTS = ("shift_x_angst", "shift_y_angst")
_BACKGROUND_OVER_DIAMETER = 1.25
_WIDEST_BACKGROUND = 0.46  # of the box: a rim of background must be left


class ExtractParams(Params):
    """Size and treatment of the boxes."""

    box_px: int | None = param(
        None, ge=16, le=8192, help="Side of the box in pixels of the micrograph, even."
    )
    box_angst: float | None = param(
        None, gt=0, help="Side of the box in Å, instead of pixels; rounded up to a fast size."
    )
    diameter_angst: float | None = param(
        None, gt=0, help="Diameter of the particle; by itself that of the coordinates."
    )
    output_px: int | None = param(
        None, ge=16, le=8192, help="Side after reducing in Fourier space; empty keeps the pixels."
    )
    invert: bool = param(True, help="Change the sign, for micrographs with dark particles.")
    flip_phases: bool = param(
        False, help="Multiply by the sign of the CTF; not for refinement, which does it better."
    )
    local_defocus: bool = param(
        True, help="Give each particle the defocus of its place where the slope was measured."
    )
    ramp: bool = param(True, advanced=True, help="Take out a sloping background.")
    dust_sigma: float = param(
        5.0,
        ge=0,
        advanced=True,
        help="Replace pixels this many deviations from the level by noise; 0 for none.",
    )
    must_be_inside: Literal["particle", "box", "centre"] = param(
        "particle",
        help="What must lie in the micrograph: the particle's disc, the whole box (as in RELION), "
        "or only the centre. What a box lacks is filled with noise like the background.",
    )
    precision: Literal["float16", "float32"] = param(
        "float16", advanced=True, help="How grey values are stored; float16 halves the file."
    )

    @model_validator(mode="after")
    def _box_is_given_once(self) -> "ExtractParams":
        if self.box_px is not None and self.box_angst is not None:
            raise ValueError("give box_px or box_angst, not both")
        if self.box_px is not None and self.box_px % 2:
            raise ValueError(f"box_px must be even: got {self.box_px}")
        if self.output_px is not None and self.output_px % 2:
            raise ValueError(f"output_px must be even: got {self.output_px}")
        return self


class Inputs(Ports):
    """Positions, and the micrographs to cut from; their CTF is passed on."""

    coordinates: DataSet = port(COORDINATES)
    micrographs: DataSet = port(MICROGRAPHS)


class Outputs(Ports):
    """The stack of particles."""

    particles: DataSet = port(PARTICLES)


def _cut_one(
    image: "torch.Tensor",
    row: dict[str, Any],
    *,
    config: "ExtractConfig",
    flip: bool,
    generator: "torch.Generator",
) -> "Extracted":
    """Cut the boxes of one micrograph."""
    import torch

    from verglas.algorithms.extraction import extract_boxes, flip_phases, replace_dust
    from verglas.algorithms.grey_levels import robust_level

    if flip:
        if config.dust_sigma > 0:
            level, spread = robust_level(image)
            n_sigma = config.dust_sigma
            image = replace_dust(image, level, spread, n_sigma=n_sigma, generator=generator)
        image = flip_phases(image, **{name: row[name] for name in (*_CTF, *_OPTICS)})
    positions = torch.tensor([row["coord_x_angst"], row["coord_y_angst"]], dtype=torch.float64).T
    positions = positions / row["pixel_size_angst"]
    return extract_boxes(image, positions.to(image.device), config=config, generator=generator)


def _as_frame(row: dict[str, Any], cut: "Extracted", path: str) -> pl.DataFrame:
    """Rows of the particles of one micrograph; those that were dropped have no image."""
    ids = pl.Series(row["coord_id"], dtype=pl.Int64)
    shift = (cut.shift_px * row["pixel_size_angst"]).cpu()
    n = len(cut.index)
    rows = pl.DataFrame(
        {
            "item_id": ids[cut.index.tolist()],
            "image_path": [path] * n,
            "image_slice": range(n),
            "shift_x_angst": shift[:, 0].tolist(),
            "shift_y_angst": shift[:, 1].tolist(),
            "background_mean": cut.background_mean.cpu().double().tolist(),
            "background_std": cut.background_std.cpu().double().tolist(),
            "box_fill_fraction": cut.fill_fraction.cpu().tolist(),
        },
        schema_overrides={
            "item_id": pl.Int64,
            "image_path": pl.String,
            "image_slice": pl.Int64,
            "shift_x_angst": pl.Float64,
            "shift_y_angst": pl.Float64,
            "background_mean": pl.Float64,
            "background_std": pl.Float64,
            "box_fill_fraction": pl.Float64,
        },
    )
    dropped = pl.DataFrame({"item_id": ids.filter(~ids.is_in(rows["item_id"].implode()))})
    return pl.concat([rows, dropped], how="diagonal")


def cut(
    rows: pl.DataFrame, task: Task, *, config: "ExtractConfig", flip: bool, precision: "MrcMode"
) -> pl.DataFrame:
    """Cut the particles of each micrograph into one stack; a row is a micrograph."""
    import torch

    from verglas.io.images import open_images
    from verglas.io.mrc import write_mrc

    frames = []
    for done, row in enumerate(rows.iter_rows(named=True)):
        generator = torch.Generator(task.device)
        generator.manual_seed(int(task.rng.integers(2**62)))
        try:
            image = open_images(task.path(row["image_path"])).read([row["image_slice"]])[0]
        except FormatError as error:
            task.skip(row["item_id"], str(error))
        else:
            tensor = torch.from_numpy(image).to(task.device)
            found = _cut_one(tensor, row, config=config, flip=flip, generator=generator)
            path = task.files / f"particles_{row['item_id']:06d}.mrcs"
            if len(found.index):
                pixel = row["pixel_size_angst"] * config.box_px / config.output_px
                write_mrc(path, found.images.cpu().numpy(), pixel, precision, is_stack=True)
            frames.append(_as_frame(row, found, task.relative(path)))
        task.progress(done + 1, rows.height)
    return pl.concat(frames) if frames else pl.DataFrame()


def _box_px(params: ExtractParams, pixel_size_angst: float, diameter_angst: float) -> int:
    """Side of the box in pixels of the micrograph."""
    from verglas.kernels.fourier import next_fast_size

    if params.box_px is not None:
        return params.box_px
    wanted = params.box_angst or 1.75 * diameter_angst
    return next_fast_size(max(16, math.ceil(wanted / pixel_size_angst)))


def _diameter(params: ExtractParams, coordinates: DataSet) -> float:
    if params.diameter_angst is not None:
        return params.diameter_angst
    if "diameter_angst" in coordinates.columns:
        median = coordinates.rows(["diameter_angst"])["diameter_angst"].median()
        if median is not None:
            return float(str(median))
    raise ParamsError(
        "particles.extract needs diameter_angst: the coordinates do not give it",
        "give the diameter of the particle in Å",
    )


def _config(params: ExtractParams, pixel_size_angst: float, diameter: float) -> "ExtractConfig":
    from verglas.algorithms.extraction import ExtractConfig

    box = _box_px(params, pixel_size_angst, diameter)
    if box * pixel_size_angst < diameter:
        raise ParamsError(
            f"particles.extract: the box of {box * pixel_size_angst:.0f} Å is smaller than the "
            f"particle, {diameter:.0f} Å",
            "make the box 1.5 to 2 diameters wide",
        )
    output = params.output_px or box
    if output > box:
        raise ParamsError(
            f"particles.extract output_px: got {output}, expected at most the box of {box} px"
        )
    radius = 0.5 * _BACKGROUND_OVER_DIAMETER * diameter / pixel_size_angst
    return ExtractConfig(
        box_px=box,
        output_px=output,
        background_radius_px=min(radius, _WIDEST_BACKGROUND * box),
        invert=params.invert,
        ramp=params.ramp,
        dust_sigma=params.dust_sigma,
        particle_radius_px=0.5 * diameter / pixel_size_angst,
        must_be_inside=params.must_be_inside,
    )


def _work(inputs: Inputs, *, flip: bool) -> pl.DataFrame:
    """One row per micrograph with the lists of its positions."""
    coordinates = inputs.coordinates.rows(
        ["item_id", "coord_x_angst", "coord_y_angst", "micrograph_id"]
    )
    lists = coordinates.group_by("micrograph_id", maintain_order=True).agg(
        coord_id="item_id", coord_x_angst="coord_x_angst", coord_y_angst="coord_y_angst"
    )
    columns = ["item_id", "image_path", "image_slice", *_OPTICS]
    columns += _CTF if flip else ()
    micrographs = inputs.micrographs.rows(columns)
    work = micrographs.join(
        lists, left_on="item_id", right_on="micrograph_id", how="inner", maintain_order="left"
    )
    if not work.height:
        raise PortError(
            "no coordinate belongs to one of the micrographs",
            "give the micrographs that the coordinates were picked in",
        )
    return work


def _at_place(rows: pl.DataFrame) -> pl.DataFrame:
    """Add the micrograph's slope of defocus times the distance from its centre."""
    change = pl.lit(0.0)
    for axis, size in (("x", "image_width_px"), ("y", "image_height_px")):
        centre = 0.5 * (pl.col(size) - 1) * pl.col("pixel_size_angst")
        change += pl.col(f"defocus_slope_{axis}") * (pl.col(f"coord_{axis}_angst") - centre)
    change = change.fill_null(0.0)
    return rows.with_columns(pl.col("defocus_u_angst", "defocus_v_angst") + change)


def _add_shifts(rows: pl.DataFrame, coordinates: pl.DataFrame) -> pl.DataFrame:
    """Add the shifts that the positions bring with them to the rest of the whole pixel."""
    known = [name for name in _SHIFTS if name in coordinates.columns]
    old = coordinates.select("item_id", *(pl.col(name).alias(f"old_{name}") for name in known))
    rows = rows.join(old, on="item_id", how="left", maintain_order="left")
    rows = rows.with_columns(pl.col(name) + pl.col(f"old_{name}").fill_null(0.0) for name in known)
    return rows.drop(f"old_{name}" for name in known)


def _particle_rows(inputs: Inputs, cut_rows: pl.DataFrame, *, local: bool) -> pl.DataFrame:
    """Join what the particles inherit from their positions and micrographs."""
    coordinates, micrographs = inputs.coordinates.rows(), inputs.micrographs
    names = ["optics_group", *(name for name in _CTF if name in micrographs.columns)]
    has_slope = local and {"defocus_u_angst", *_SLOPE} <= set(micrographs.columns)
    extra = (*_SLOPE, "pixel_size_angst") if has_slope else ()
    inherited = micrographs.rows(["item_id", *names, *extra]).rename({"item_id": "micrograph_id"})
    rows = _add_shifts(cut_rows, coordinates)
    dropped = [name for name in (*names, *extra, *rows.columns) if name != "item_id"]
    kept = coordinates.drop(dropped, strict=False)
    rows = rows.join(kept, on="item_id", how="left", maintain_order="left")
    rows = rows.join(inherited, on="micrograph_id", how="left", maintain_order="left")
    if has_slope:
        rows = _at_place(rows).drop(extra)
    return rows.with_columns(source_id=pl.col("item_id"))


def _check_traits(inputs: Inputs, params: ExtractParams) -> None:
    micrographs = inputs.micrographs
    if params.flip_phases:
        micrographs.require(("ctf",), needed_by="particles.extract with flip_phases")
    sizes = sorted(set(micrographs.optics["pixel_size_angst"].to_list()))
    if len(sizes) > 1:
        raise PortError(
            f"micrographs have {len(sizes)} pixel sizes, {sizes[0]:g} to {sizes[-1]:g} Å",
            "extract those of one pixel size at a time",
        )


def _report_borders(ctx: Context, made: pl.DataFrame, config: "ExtractConfig") -> pl.DataFrame:
    """Count what was dropped and filled at borders; returns the rows of what is there."""
    if not made.height:
        raise UserError(
            "none of the micrographs could be read", "see verglas log; import the micrographs again"
        )
    rows = made.filter(pl.col("image_path").is_not_null())
    n_dropped = made.height - rows.height
    if not rows.height:
        raise UserError(
            f"none of {made.height} particles was extracted: all leave their micrographs (box "
            f"{config.box_px} px, particle {2 * config.particle_radius_px:.0f} px)",
            "make the box smaller than the micrographs, and check the diameter",
        )
    what = {"particle": "particles", "box": "boxes", "centre": "positions"}[config.must_be_inside]
    if n_dropped:
        ctx.warn(f"{n_dropped} of {made.height} {what} leave their micrograph: dropped")
    n_filled = rows.filter(pl.col("box_fill_fraction") > 0).height
    ctx.log.info("%d boxes cross the border; their rim was filled with noise", n_filled)
    ctx.metric("n_particles", rows.height)
    ctx.metric("n_at_border_dropped", n_dropped)
    ctx.metric("n_at_border_filled", n_filled)
    return rows


@protocol("particles.extract", version=3, label="Extract particles")
def run(ctx: Context, params: ExtractParams, inputs: Inputs) -> Outputs:
    """Group positions by micrograph, cut, and join the tables."""
    _check_traits(inputs, params)
    pixel = float(inputs.micrographs.optics["pixel_size_angst"][0])
    config = _config(params, pixel, _diameter(params, inputs.coordinates))
    work = _work(inputs, flip=params.flip_phases)
    ctx.log.info("box %d px, %.1f Å", config.box_px, config.box_px * pixel)
    made = ctx.map(
        cut, work, chunk=4, config=config, flip=params.flip_phases, precision=params.precision
    )
    n_given = int(work["coord_id"].list.len().sum())
    if n_given < inputs.coordinates.n_items:
        ctx.warn(f"{inputs.coordinates.n_items - n_given} positions have no micrograph here")
    made = _report_borders(ctx, made, config)
    output_pixel = pixel * config.box_px / config.output_px
    optics = inputs.micrographs.optics.with_columns(
        pixel_size_angst=pl.lit(output_pixel),
        micrograph_pixel_size_angst=pl.lit(pixel),
        box_px=pl.lit(config.output_px, pl.Int64),
    )
    ctx.metric("box_px", config.output_px)
    rows = _particle_rows(inputs, made, local=params.local_defocus)
    return Outputs(particles=ctx.dataset(PARTICLES, rows, optics=optics, source=inputs.coordinates))
