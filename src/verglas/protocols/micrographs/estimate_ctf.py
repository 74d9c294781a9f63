"""Estimate the CTF of micrographs, and put bad micrographs aside.

The spectrum of overlapping tiles is searched exhaustively for defocus and astigmatism (and phase
shift, if a range is given); `initial` micrographs with a CTF take the place of the search. The best
fit is refined by one of four methods:

- `likelihood`: maximum likelihood of the whole spectrum with a slowly varying background and
  envelope; also measures motion that blurs the rings in one direction. The default.
- `correlation`: greatest correlation with the amplitude spectrum; also finds the thickness of ice
  thick enough to reverse the rings within the band.
- `equiphase`: the astigmatism makes the average along equal phase strongest, defocus and phase
  shift are fitted to this average; errors by leaving directions out.
- `parametric`: robust fit of the logarithm by a complete physical form of noise and envelope.

They err in different ways; run two or more and compare them with `ctf.consensus`. All give standard
errors. The fit resolution is where the rings, averaged along equal phase, stop following the model.

`rejected` holds micrographs whose rings end before `max_fit_res_angst`, or are blurred in one
direction by motion of more than `max_drift_angst`: at 25 Å of motion a twentieth of the power at
10 Å is left in that direction. An image without any believable ring counts as the lowest
frequency of the band and so is rejected. The rings also tell the spherical aberration; if it
contradicts the given one, a warning asks to check pixel size, voltage and aberration.

A tilted specimen changes its defocus across the image. The slope is measured from the tiles and
kept in `defocus_slope_x` and `defocus_slope_y`; extraction gives each particle its own defocus.
Crystalline ice shows as `ice_ring_ratio` (sharp rings at 3.4 to 3.9 Å) and `n_reflections` (spots).
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import polars as pl
from pydantic import model_validator

from verglas.model import MICROGRAPHS, DataSet
from verglas.sdk import ArrayRef, Context, Params, Ports, Task, param, port, protocol

if TYPE_CHECKING:
    from verglas.algorithms.ctf.fit import CtfFit, CtfStart

__all__ = ["CtfParams", "Inputs", "Outputs", "SearchRange", "estimate", "run"]

_UNWEIGHTED = "unweighted_image_path"  # dose weights dampen the rings
_COLUMNS = (
    "item_id",
    "image_path",
    "image_slice",
    "pixel_size_angst",
    "voltage_kv",
    "spherical_aberration_mm",
    "amplitude_contrast",
)
_SCALARS = (
    "defocus_u_angst",
    "defocus_v_angst",
    "defocus_angle_deg",
    "phase_shift_deg",
    "defocus_error_angst",
    "astigmatism_error_angst",
    "phase_shift_error_deg",
    "fit_res_angst",
    "fit_score",
)
_LEAST_ABERRATION_MM = 0.5  # what a tilted specimen may feign; 4.6 % of pixel size at 2.7 mm
_START = ("defocus_u_angst", "defocus_v_angst", "defocus_angle_deg", "phase_shift_deg")


class SearchRange(Params):
    """What the fit of one micrograph depends on."""

    method: Literal["likelihood", "correlation", "equiphase", "parametric"] = param(
        "likelihood", help="Objective of the fit; see above."
    )
    min_defocus_angst: float = param(5000.0, ge=500, help="Least mean underfocus.")
    max_defocus_angst: float = param(50000.0, le=200000, help="Greatest mean underfocus.")
    max_astigmatism_angst: float = param(
        2000.0, ge=0, le=20000, help="Greatest difference between the two defoci."
    )
    min_phase_shift_deg: float = param(
        0.0, ge=0, le=180, advanced=True, help="Least phase shift of a phase plate."
    )
    max_phase_shift_deg: float = param(
        0.0,
        ge=0,
        le=180,
        advanced=True,
        help="Greatest phase shift; equal to the least one it is fixed, not searched.",
    )
    min_res_angst: float = param(
        30.0, gt=5, le=100, advanced=True, help="Low-frequency end of the fitted band."
    )
    max_res_angst: float = param(
        3.0, gt=0.5, le=15, advanced=True, help="High-frequency end of the fitted band."
    )
    max_thickness_angst: float = param(
        0.0,
        ge=0,
        le=10000,
        advanced=True,
        show_if={"method": "correlation"},
        help="Thickest ice whose node is looked for; 0 looks for none.",
    )
    tile_angst: float = param(
        768.0, ge=200, le=5000, advanced=True, help="Edge of the tiles of the periodogram."
    )


class CtfParams(SearchRange):
    """What to search, and what to accept."""

    max_fit_res_angst: float = param(
        10.0, gt=0, help="Reject micrographs whose rings do not reach this resolution."
    )
    max_drift_angst: float = param(
        25.0, gt=0, help="Reject micrographs that moved farther than this in one direction."
    )

    @model_validator(mode="after")
    def _ranges_are_not_empty(self) -> "CtfParams":
        if self.min_defocus_angst > self.max_defocus_angst:
            raise ValueError("min_defocus_angst must not exceed max_defocus_angst")
        if self.min_phase_shift_deg > self.max_phase_shift_deg:
            raise ValueError("min_phase_shift_deg must not exceed max_phase_shift_deg")
        return self


class Inputs(Ports):
    """Micrographs, whose sums without dose weights are used if known; and an earlier estimate."""

    micrographs: DataSet = port(MICROGRAPHS)
    initial: DataSet | None = port(
        MICROGRAPHS,
        needs=("ctf",),
        optional=True,
        help="The same micrographs with a CTF to start from instead of searching.",
    )


class Outputs(Ports):
    """The micrographs with their CTF, in two parts."""

    micrographs: DataSet = port(MICROGRAPHS, needs=("ctf", "ctf_fit"))
    rejected: DataSet = port(MICROGRAPHS, needs=("ctf", "ctf_fit"))


def _known(value: float, is_known: bool = True) -> float | None:
    """Give a number, or None where it is not one."""
    return value if is_known and math.isfinite(value) else None


def _as_row(item_id: int, method: str, fit: "CtfFit", picture: str) -> dict[str, object]:
    profile, has = fit.profile, fit.has_rings
    return {
        "item_id": item_id,
        "ctf_method": method,
        **{name: float(getattr(fit, name)) for name in _SCALARS},
        "drift_angst": _known(fit.drift_angst),
        "drift_angle_deg": _known(fit.drift_angle_deg),
        "defocus_slope_x": fit.slope.slope_x,
        "defocus_slope_y": fit.slope.slope_y,
        "defocus_slope_error": _known(fit.slope.error, has),
        "ring_evidence": fit.evidence,
        "spherical_aberration_fit_mm": _known(fit.aberration_fit_mm, has),
        "spherical_aberration_error_mm": _known(fit.aberration_error_mm, has),
        "ice_thickness_angst": _known(fit.thickness_angst),
        "ice_thickness_error_angst": _known(fit.thickness_error_angst),
        "envelope_b_factor_angst2": _known(fit.envelope_b_angst2),
        "ice_ring_ratio": _known(fit.ice.ring_ratio),
        "n_reflections": fit.ice.n_reflections,
        "crystal_fraction": fit.ice.crystal_fraction,
        "spectrum_path": picture,
        "profile_per_angst": profile.radius_per_angst.tolist(),
        "profile_power": profile.experiment.tolist(),
        "profile_background": fit.background.tolist(),
        "profile_ctf2": fit.ctf2.tolist(),
        "profile_score": profile.quality.tolist(),
    }


_MAYBE = (
    "drift_angst",
    "drift_angle_deg",
    "defocus_slope_error",
    "spherical_aberration_fit_mm",
    "spherical_aberration_error_mm",
    "ice_thickness_angst",
    "ice_thickness_error_angst",
    "envelope_b_factor_angst2",
    "ice_ring_ratio",
)


def _starts(task: Task, ref: ArrayRef | None) -> "Mapping[int, CtfStart]":
    """Earlier estimates by micrograph."""
    from verglas.algorithms.ctf.fit import CtfStart

    if ref is None:
        return {}
    arrays = task.load(ref)
    values = arrays["values"].tolist()
    return {int(i): CtfStart(*row) for i, row in zip(arrays["item_id"], values, strict=True)}


def estimate(
    rows: pl.DataFrame, task: Task, *, search: SearchRange, initial: ArrayRef | None = None
) -> pl.DataFrame:
    """Fit each micrograph and draw its spectrum beside the fit."""
    import torch

    from verglas.algorithms.ctf.fit import CtfFitConfig, fit_ctf
    from verglas.core.errors import FormatError
    from verglas.io.images import open_images, write_png

    config = CtfFitConfig(**search.model_dump())
    starts, found = _starts(task, initial), []
    for done, row in enumerate(rows.iter_rows(named=True)):
        try:
            name = row.get(_UNWEIGHTED) or row["image_path"]
            image = open_images(task.path(name)).read([row["image_slice"]])[0]
            fit = fit_ctf(
                torch.from_numpy(image).to(task.device),
                pixel_size_angst=row["pixel_size_angst"],
                voltage_kv=row["voltage_kv"],
                spherical_aberration_mm=row["spherical_aberration_mm"],
                amplitude_contrast=row["amplitude_contrast"],
                config=config,
                start=starts.get(row["item_id"]),
            )
        except (FormatError, ValueError) as error:
            task.skip(row["item_id"], f"{row['image_path']}: {error}")
        else:
            path = task.files / f"spectrum_{row['item_id']:06d}.png"
            write_png(path, fit.picture.numpy())
            found.append(_as_row(row["item_id"], search.method, fit, task.relative(path)))
        task.progress(done + 1, rows.height)
    schema: dict[str, Any] = dict.fromkeys(_MAYBE, pl.Float64)
    return pl.DataFrame(found, schema_overrides=schema, infer_schema_length=None)


def _put_initial(ctx: Context, inputs: Inputs) -> ArrayRef | None:
    """Hand an earlier estimate to the chunks."""
    if inputs.initial is None:
        return None
    rows = inputs.initial.rows(["item_id", *_START]).drop_nulls()
    values = rows.select(pl.col(_START).cast(pl.Float64)).to_numpy()
    return ctx.put({"item_id": rows["item_id"].to_numpy(), "values": values})


def _check_optics(ctx: Context, fits: pl.DataFrame) -> None:
    """Warn where the rings of a group of micrographs contradict the given aberration."""
    given, fitted, error = (
        "spherical_aberration_mm",
        "spherical_aberration_fit_mm",
        "spherical_aberration_error_mm",
    )
    known = fits.drop_nulls([fitted, error]).filter(pl.col(error) > 0)
    for (value,), group in known.group_by(given, maintain_order=True):
        weight = group[error] ** -2
        mean = float((group[fitted] * weight).sum()) / float(weight.sum())
        spread = float(((group[fitted] - mean) ** 2 * weight).sum()) / max(1, group.height - 1)
        sigma = math.sqrt(max(spread, 1.0) / float(weight.sum()))
        expected = float(str(value))
        if abs(mean - expected) > max(4.0 * sigma, _LEAST_ABERRATION_MM):
            ctx.warn(
                f"the Thon rings of {group.height} micrograph{'s' if group.height > 1 else ''} ask "
                f"for a spherical aberration of {mean:.2f} ± {sigma:.2f} mm, but {expected:g} mm "
                "was given: check spherical aberration, pixel size and voltage"
            )


@protocol(
    "micrographs.estimate_ctf",
    version=4,
    label="Estimate CTF",
    citations=(
        "Rohou & Grigorieff 2015, doi:10.1016/j.jsb.2015.08.008",
        "Zhang 2016, doi:10.1016/j.jsb.2015.11.003",
        "Whittle 1953, doi:10.1007/BF02590998",
        "Sorzano et al. 2007, doi:10.1016/j.jsb.2007.08.013",
        "Elferich et al. 2024, doi:10.7554/eLife.97227",
    ),
)
def run(ctx: Context, params: CtfParams, inputs: Inputs) -> Outputs:
    """Fit, join the columns, and split by the two limits."""
    from verglas.core.errors import UserError

    search = SearchRange(**{name: getattr(params, name) for name in SearchRange.model_fields})
    extra = [_UNWEIGHTED] if _UNWEIGHTED in inputs.micrographs.columns else []
    fits = ctx.map(
        estimate,
        inputs.micrographs,
        chunk=4,
        columns=(*_COLUMNS, *extra),
        search=search,
        initial=_put_initial(ctx, inputs),
    )
    if not fits.height:
        raise UserError("no micrograph could be read", "the log says for each what is wrong")
    fitted = inputs.micrographs.select(fits).with_columns(fits)
    still = (pl.col("drift_angst") <= params.max_drift_angst).fill_null(True)
    good = (pl.col("fit_res_angst") <= params.max_fit_res_angst) & still
    accepted = fits.filter(good)
    given = inputs.micrographs.rows(["item_id", "spherical_aberration_mm"])
    _check_optics(ctx, accepted.join(given, on="item_id", maintain_order="left"))
    if not accepted.height:
        best = min(fits["fit_res_angst"].to_list())
        ctx.warn(
            f"all {fits.height} micrographs were rejected: best fit resolution {best:.1f} Å, "
            f"limit {params.max_fit_res_angst:g} Å; check pixel size, voltage and defocus range"
        )
    else:
        ctx.metric("median_fit_res_angst", round(float(str(accepted["fit_res_angst"].median())), 2))
    ctx.metric("n_accepted", accepted.height)
    ctx.metric("n_rejected", fits.height - accepted.height)
    return Outputs(
        micrographs=ctx.select(fitted, accepted), rejected=ctx.select(fitted, fits.filter(~good))
    )
