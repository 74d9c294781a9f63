"""Estimate the detector's gain from movies, and check how a given reference lies on them.

Every pixel has counted about as much light as its neighbours, once many movies are added: what
remains is its gain. The estimate is the likeliest one under counting statistics; movies count by
their light. A second pass takes the structure of the images out.

A given reference (of the movies, or `reference`) is compared in its eight orientations, as
factor and as divisor; the movies that come out carry it as it must lie. Without one, or where
none of the ways stands out, they carry the estimate. Light that changes over more than
`smooth_px` pixels is taken for the beam's, not for the detector's.
"""

from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from verglas.model import MOVIES, DataSet
from verglas.protocols.movies._references import (
    frame_numbers,
    movie_columns,
    read_reference,
    skipped_text,
)
from verglas.sdk import Accumulated, ArrayRef, Context, Params, Ports, Task, param, port, protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from verglas.algorithms.gain import GainFit, Orientation

__all__ = ["GainParams", "Inputs", "Outputs", "add_movies", "run"]

_COLUMNS = (
    "item_id",
    "image_path",
    "first_frame",
    "last_frame",
    "eer_frames_per_fraction",
    "eer_upsampling",
)
_STRUCTURE_PX = 3.0
_CHUNK = 16
_POOR_COUNTS = 200.0


class GainParams(Params):
    """Which movies, and which gain to use."""

    reference: str = param(
        "", help="Gain reference to compare with; empty takes that of the movies, if any."
    )
    use: Literal["auto", "reference", "estimate"] = param(
        "auto",
        help="Gain of the movies that come out; auto takes the reference if it fits in some way.",
    )
    n_movies: int = param(100, ge=1, help="Largest number of movies, evenly chosen.")
    smooth_px: float | None = param(
        None,
        gt=2,
        advanced=True,
        help="Standard deviation of the beam's changes of light; empty takes an eighth of a side.",
    )


class Inputs(Ports):
    """Movies as the detector gave them."""

    movies: DataSet = port(MOVIES)


class Outputs(Ports):
    """The same movies with a gain reference."""

    movies: DataSet = port(MOVIES, needs=("gain",))


def add_movies(
    rows: pl.DataFrame, task: Task, *, smooth_px: float | None, known: ArrayRef | None
) -> "tuple[pl.DataFrame, dict[str, NDArray[np.float32]]]":
    """Add the frames of movies, and the light that fell on each pixel."""
    import numpy as np

    from verglas.algorithms.gain import brightness
    from verglas.core.errors import FormatError
    from verglas.io.movies import open_movie

    gain = None if known is None else task.load(known)["gain"].astype(np.float32)
    sums: dict[str, NDArray[np.float32]] = {}
    used: list[dict[str, Any]] = []
    for done, row in enumerate(rows.iter_rows(named=True)):
        try:
            with open_movie(
                task.path(row["image_path"]),
                eer_frames_per_fraction=row.get("eer_frames_per_fraction"),
                eer_upsampling=row.get("eer_upsampling") or 1,
            ) as movie:
                numbers = frame_numbers(row, movie.n_frames)
                total = np.zeros(movie.shape, np.float32)
                for number in numbers:
                    total += movie.frame(number)
            _check_sum(total, sums.get("counted"))
            light = brightness(total, gain, smooth_px or min(total.shape) / 8)
        except (FormatError, ValueError) as error:
            task.skip(row["item_id"], skipped_text(row["image_path"], error))
        else:
            for name, image in (("counted", total), ("light", light)):
                sums[name] = sums[name] + image if name in sums else image
            used.append({"item_id": row["item_id"], "n_frames": len(numbers)})
        task.progress(done + 1, rows.height)
    return pl.DataFrame(used, schema={"item_id": pl.Int64, "n_frames": pl.Int64}), sums


def _check_sum(total: "NDArray[np.float32]", before: "NDArray[np.float32] | None") -> None:
    import numpy as np

    if not np.isfinite(total).all():
        raise ValueError("some pixels are not numbers")
    if total.min() == total.max():
        raise ValueError("all pixels are equal")
    if before is not None and before.shape != total.shape:
        raise ValueError(f"frames have shape {total.shape}, those before {before.shape}")


def _fit(added: Accumulated) -> "GainFit":
    import numpy as np

    from verglas.algorithms.gain import invert_gain
    from verglas.core.errors import UserError

    sums = added.sums.get(None, {})
    if not sums:
        raise UserError("no movie could be read", "the log says for each what is wrong")
    return invert_gain(sums["counted"].astype(np.float32), sums["light"].astype(np.float32))


def _reference_path(params: GainParams, movies: DataSet) -> str:
    from verglas.core.errors import UserError

    if params.reference:
        return params.reference
    if "gain_path" not in movies.columns:
        return ""
    paths = movies.rows(["gain_path"])["gain_path"].drop_nulls().unique().to_list()
    if len(paths) > 1:
        raise UserError(
            f"the movies have {len(paths)} gain references, as {paths[0]!r}",
            "estimate the gain of the movies of one camera at a time",
        )
    return str(paths[0]) if paths else ""


@protocol(
    "movies.estimate_gain",
    version=1,
    label="Estimate gain",
    citations=("Sorzano 2018, doi:10.1016/j.jsb.2018.05.001",),
)
def run(ctx: Context, params: GainParams, inputs: Inputs) -> Outputs:
    """Estimate in two passes, compare with the reference, and choose."""
    import numpy as np

    movies = inputs.movies
    columns = movie_columns(movies, _COLUMNS)
    every = movies.rows(["item_id"])
    step = max(1, -(-every.height // params.n_movies))
    sample = movies.select(every.gather_every(step))
    reference = _reference_path(params, movies)
    first = ctx.accumulate(
        add_movies, sample, chunk=_CHUNK, columns=columns, smooth_px=params.smooth_px, known=None
    )
    known = ctx.put({"gain": _fit(first).gain})
    second = ctx.accumulate(
        add_movies, sample, chunk=_CHUNK, columns=columns, smooth_px=_STRUCTURE_PX, known=known
    )
    fit = _fit(second)
    ctx.metric("counts_per_pixel", round(fit.counts, 1))
    ctx.metric("expected_error", round(fit.expected_error, 5))
    ctx.metric("gain_spread", round(float(fit.gain[fit.gain > 0].std()), 5))
    ctx.metric("n_bad_pixels", fit.n_bad)
    oriented, found = None, None
    if reference:
        counted = second.sums[None]["counted"].astype(np.float32)
        oriented, found = _orient(ctx, fit, counted, reference)
    return Outputs(movies=_with_gain(ctx, params, movies, fit, oriented, found))


def _orient(
    ctx: Context, fit: "GainFit", counted: "NDArray[np.float32]", reference: str
) -> "tuple[NDArray[np.float32], Orientation]":
    """Turn the reference as it must lie, and say how well it fits."""
    import numpy as np

    from verglas.algorithms.gain import find_orientation, residual_gain, turn
    from verglas.core.errors import FormatError

    image = read_reference(ctx.path(reference))
    try:
        found = find_orientation(counted, image)
    except ValueError as error:
        raise FormatError(
            f"{reference!r}: {error}", "give the reference that belongs to this camera and binning"
        ) from error
    oriented = turn(image, found.orientation)
    if found.is_inverse:
        oriented = np.divide(1.0, oriented, out=np.zeros_like(oriented), where=oriented > 0)
    oriented = (oriented / oriented[oriented > 0].mean()).astype(np.float32)
    residual = residual_gain(fit, oriented)[1]
    ctx.metric("orientation", found.text)
    ctx.metric("orientation_correlation", round(found.correlation, 4))
    ctx.metric("orientation_z_score", round(found.z_score, 1))
    ctx.metric("residual_gain", round(residual, 5))
    if not found.is_certain:
        ctx.warn(
            f"the reference fits in no way that stands out: best {found.text} with a correlation "
            f"of {found.correlation:.3f} ({found.z_score:.1f} standard deviations), then "
            f"{found.second:.3f}; was it applied to the movies already, or is it another camera's?"
        )
    elif not found.is_identity:
        ctx.warn(f"the gain reference had to be used {found.text}")
    return oriented, found


def _with_gain(
    ctx: Context,
    params: GainParams,
    movies: DataSet,
    fit: "GainFit",
    oriented: "NDArray[np.float32] | None",
    found: "Orientation | None",
) -> DataSet:
    from verglas.algorithms.gain import residual_gain
    from verglas.core.errors import UserError
    from verglas.io.images import write_png
    from verglas.io.mrc import write_mrc

    fits = found is not None and found.is_certain
    if params.use == "reference" and oriented is None:
        raise UserError("there is no gain reference to use", "give one, or use the estimate")
    use_reference = oriented is not None and (params.use == "reference" or (
        params.use == "auto" and fits
    ))  # fmt: skip
    estimate = ctx.write_file("gain_estimated.mrc", lambda path: write_mrc(path, fit.gain, 1.0))
    chosen, panels = estimate, [fit.gain]
    if oriented is not None:
        given = oriented
        turned = ctx.write_file("gain_reference.mrc", lambda path: write_mrc(path, given, 1.0))
        panels += [given, residual_gain(fit, given)[0] + 1.0]
        chosen = turned if use_reference else estimate
    if not use_reference and fit.counts < _POOR_COUNTS:
        ctx.warn(
            f"the gain rests on {fit.counts:.0f} counts a pixel and is known to "
            f"{100 * fit.expected_error:.1f} % only; use more movies"
        )
    picture = ctx.write_file("gain.png", lambda path: write_png(path, _picture(panels)))
    gain = pl.DataFrame({"gain_path": [chosen], "gain_picture_path": [picture]})
    return movies.with_columns(movies.rows(["item_id"]).join(gain, how="cross"))


def _picture(panels: "list[NDArray[np.float32]]") -> "NDArray[np.uint8]":
    """Put the middle of gain, reference and their ratio beside each other, alike in grey."""
    import numpy as np

    side = min(400, *panels[0].shape)
    spread = 3.0 * float(panels[0][panels[0] > 0].std()) + 1e-6
    shown = []
    for panel in panels:
        top, left = ((n - side) // 2 for n in panel.shape)
        part = panel[top : top + side, left : left + side]
        grey = np.clip(127.5 + (part - 1.0) * (127.5 / spread), 0, 255)
        shown += [grey.astype(np.uint8), np.full((side, 6), 255, np.uint8)]
    return np.concatenate(shown[:-1], axis=1)
