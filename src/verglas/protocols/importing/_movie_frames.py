"""Which frames of imported movies are used, and how much each was exposed."""

from pathlib import Path

import polars as pl

from verglas.core.errors import UserError
from verglas.sdk import Context

__all__ = ["chosen_frames", "with_doses"]

_LARGE_DOSE = 20.0  # of a frame; whole movies have 30 to 80
_NAMED = 5  # movies that a warning names


def chosen_frames(
    ctx: Context,
    rows: pl.DataFrame,
    *,
    first_frame: int,
    last_frame: int | None,
    eer_frames_per_fraction: int | None,
    eer_upsampling: int,
) -> pl.DataFrame:
    """Decide which frames of each movie are used; `n_frames` as they will be read.

    Args:
        ctx: of the job.
        rows: movies as `inspect_movies` found them.
        first_frame, last_frame: from 0; None for the last of each.
        eer_frames_per_fraction: None gives about 40 frames.
        eer_upsampling: of EER pixels.
    """
    raw = rows.filter("is_eer")["n_raw_frames"]
    per_fraction = eer_frames_per_fraction
    if len(raw) and per_fraction is None:
        from verglas.io.movies import default_frames_per_fraction

        per_fraction = default_frames_per_fraction(int(raw.median() or 1))  # type: ignore[arg-type]
    is_eer = pl.col("is_eer")
    rows = rows.with_columns(
        n_frames=pl.when(is_eer)
        .then(pl.col("n_raw_frames") // (per_fraction or 1))
        .otherwise("n_raw_frames"),
    )
    if len(raw):
        rows = rows.with_columns(
            eer_frames_per_fraction=pl.when(is_eer).then(pl.lit(per_fraction, pl.Int64)),
            eer_upsampling=pl.when(is_eer).then(pl.lit(eer_upsampling, pl.Int64)),
        )
    usual = int(rows["n_frames"].mode().max())  # type: ignore[arg-type]
    others = rows.filter(pl.col("n_frames") != usual)
    if others.height:
        ctx.warn(
            f"{others.height} of {rows.height} movies have another number of frames than {usual}: "
            f"{_named(others)}; all their frames are used"
        )
    short = rows.filter(pl.col("n_frames") <= first_frame)
    if short.height:
        ctx.warn(
            f"{short.height} movies end before frame {first_frame}, the first to be used: "
            f"{_named(short)}; left out"
        )
    end = pl.col("n_frames") - 1
    last = end if last_frame is None else pl.min_horizontal(end, pl.lit(last_frame))
    rows = rows.filter(pl.col("n_frames") > first_frame)
    if not rows.height:
        raise UserError(
            f"no movie has frames from {first_frame} on, or fills one EER fraction",
            "give another first frame, or fewer EER frames per fraction",
        )
    return rows.with_columns(first_frame=pl.lit(first_frame, pl.Int64), last_frame=last)


def with_doses(
    ctx: Context,
    rows: pl.DataFrame,
    *,
    frame_dose_e_per_angst2: float | None,
    pre_exposure_e_per_angst2: float,
) -> pl.DataFrame:
    """Decide the exposure of a frame: the parameter's, the table's, or the camera's.

    Args:
        ctx: of the job.
        rows: movies with their frames.
        frame_dose_e_per_angst2: the parameter's, or None.
        pre_exposure_e_per_angst2: where the table does not say.
    """
    name = "frame_dose_e_per_angst2"
    if frame_dose_e_per_angst2 is not None:
        dose = pl.lit(frame_dose_e_per_angst2)
    else:
        is_eer = "eer_frames_per_fraction" in rows.columns
        share = pl.col("eer_frames_per_fraction").fill_null(1) if is_eer else 1
        camera = pl.col("header_dose_e_per_angst2") * share / pl.col("n_raw_frames")
        known = [pl.col(name)] if name in rows.columns else []
        dose = pl.coalesce(*known, camera, pl.lit(0.0))
    pre = "pre_exposure_e_per_angst2"
    before = [pl.col(pre)] if pre in rows.columns else []
    rows = rows.with_columns(
        dose.cast(pl.Float64).alias(name),
        pl.coalesce(*before, pl.lit(pre_exposure_e_per_angst2)).alias(pre),
    )
    unknown = rows.filter(pl.col(name) == 0)
    if unknown.height:
        ctx.warn(
            f"the exposure of {unknown.height} of {rows.height} movies is 0 or not known: their "
            "frames cannot be weighted by damage; give frame_dose_e_per_angst2"
        )
    largest = float(rows[name].max() or 0.0)  # type: ignore[arg-type]
    if largest > _LARGE_DOSE:
        ctx.warn(
            f"an exposure of {largest:g} e/Å^2 for one frame is large: is it that of a whole movie?"
        )
    return rows


def _named(rows: pl.DataFrame) -> str:
    """Name a few movies of a table."""
    names = [Path(text).name for text in rows["image_path"].head(_NAMED)]
    more = rows.height - len(names)
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")
