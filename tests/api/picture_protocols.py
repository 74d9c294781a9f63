"""Protocols whose outputs have pictures, for tests of the report."""

import polars as pl

from tests.viewers import sets
from verglas.model import COORDINATES, CURVES, MICROGRAPHS, VOLUMES, DataSet
from verglas.sdk import Context, Params, Ports, param, port, protocol


class NoInputs(Ports):
    """None."""


class Micrographs(Ports):
    """Fitted micrographs, some put aside."""

    micrographs: DataSet = port(MICROGRAPHS)
    rejected: DataSet = port(MICROGRAPHS)


class OneSet(Ports):
    """Micrographs to pick in."""

    micrographs: DataSet = port(MICROGRAPHS)


class Picked(Ports):
    """Positions."""

    coordinates: DataSet = port(COORDINATES)


class Maps(Ports):
    """A map with its curves."""

    volumes: DataSet = port(VOLUMES)
    curves: DataSet = port(CURVES)


class FitParams(Params):
    """How many."""

    count: int = param(3, ge=1, help="How many micrographs.")
    max_fit_res_angst: float = param(4.5, gt=0, help="Limit.")


class MapParams(Params):
    """Of the map."""

    symmetry: str = param("C1", help="Point group.")


def _moved(ctx: Context, data: DataSet, names: list[str]) -> DataSet:
    """Let the files of a set of the tests belong to the project."""
    columns = [name for name in names if name in data.columns]
    folder = ctx.relative(ctx.files)
    rows = data.rows().with_columns(pl.format(folder + "/{}", name).alias(name) for name in columns)
    return ctx.dataset(data.kind, rows, optics=data.optics)


@protocol(
    "micrographs.fit_all", version=1, label="Fit all", citations=("Rohou 2015, doi:10.1000/x",)
)
def fit_all(ctx: Context, params: FitParams, inputs: NoInputs) -> Micrographs:
    """Make fitted micrographs."""
    made = _moved(ctx, sets.fitted(ctx.files, params.count), ["image_path", "spectrum_path"])
    rows = made.rows()
    good = pl.col("fit_res_angst") <= params.max_fit_res_angst
    ctx.metric("n_accepted", rows.filter(good).height)
    ctx.warn("one looks odd")
    return Micrographs(
        micrographs=ctx.select(made, rows.filter(good)),
        rejected=ctx.select(made, rows.filter(~good)),
    )


@protocol("micrographs.pick_some", version=1, label="Pick some")
def pick_some(ctx: Context, params: MapParams, inputs: OneSet) -> Picked:
    """Make positions in micrographs of its own."""
    made = sets.coordinates(ctx.files)
    return Picked(coordinates=_moved(ctx, made, ["micrograph_path"]))


@protocol("volumes.make_ball", version=1, label="Make a ball")
def make_ball(ctx: Context, params: MapParams, inputs: NoInputs) -> Maps:
    """Make a map and curves."""
    ctx.metric("resolution_angst", 6.0)
    volumes = _moved(ctx, sets.volumes(ctx.files), ["image_path", "mask_path"])
    return Maps(volumes=volumes, curves=ctx.dataset(CURVES, sets.curves(ctx.files).rows()))
