"""Pick particles with a network of Topaz.

Runs `topaz preprocess` and `topaz extract`, which must be installed, with one of the pretrained
networks or the file of a model of your own. Micrographs must be MRC files, since Topaz reads them
itself. `score` is its log-likelihood ratio: 0 is the balance, higher is surer.
"""

from pathlib import Path

import polars as pl

from verglas.core.errors import UserError
from verglas.model import COORDINATES, MICROGRAPHS, DataSet
from verglas.sdk import Context, Params, Ports, param, port, protocol
from verglas_topaz.tools.topaz import (
    TOPAZ,
    parse_picks,
    prepare_extract,
    prepare_preprocess,
    scale_of,
)

__all__ = ["Inputs", "Outputs", "TopazParams", "run"]

_CTF = ("defocus_u_angst", "defocus_v_angst", "defocus_angle_deg", "phase_shift_deg")


class TopazParams(Params):
    """The particle, the network, and where it runs."""

    diameter_angst: float = param(gt=10, le=5000, help="Largest diameter of the particle.")
    model: str = param(
        "resnet16_u64", help="Name of a pretrained network of Topaz, or a file of your own."
    )
    threshold: float = param(0.0, help="Least log-likelihood ratio of a pick.")
    gpu: int = param(-1, ge=-1, help="Number of the GPU; -1 for the processor.")


class Inputs(Ports):
    """Micrographs in MRC files."""

    micrographs: DataSet = port(MICROGRAPHS)


class Outputs(Ports):
    """Positions."""

    coordinates: DataSet = port(COORDINATES, needs=("score",))


def _link(ctx: Context, rows: pl.DataFrame, folder: Path) -> dict[str, int]:
    """Link the micrographs by number; give the item of each name without suffix."""
    folder.mkdir(parents=True, exist_ok=True)
    items = {}
    for row in rows.iter_rows(named=True):
        path = ctx.path(row["image_path"]).resolve()
        if path.suffix.lower() != ".mrc" or row["image_slice"] != 0:
            raise UserError(
                f"topaz reads single MRC files: got {row['image_path']!r}",
                "convert the micrographs, or use micrographs.pick_network",
            )
        name = f"m{row['item_id']:06d}"
        link = folder / f"{name}.mrc"
        link.unlink(missing_ok=True)
        link.symlink_to(path)
        items[name] = row["item_id"]
    return items


def _coordinates(
    picks: pl.DataFrame, items: dict[str, int], micrographs: DataSet, diameter_angst: float
) -> pl.DataFrame:
    inherited = ["item_id", "image_path", "optics_group", "pixel_size_angst"]
    inherited += [name for name in _CTF if name in micrographs.columns]
    names = pl.DataFrame({"image_name": list(items), "micrograph_id": list(items.values())})
    own = micrographs.rows(inherited, with_optics=True).rename(
        {"item_id": "micrograph_id", "image_path": "micrograph_path"}
    )
    rows = picks.join(names, on="image_name").join(own, on="micrograph_id", maintain_order="left")
    return rows.select(
        "micrograph_id",
        "micrograph_path",
        "optics_group",
        "score",
        *(name for name in _CTF if name in rows.columns),
        source_id="micrograph_id",
        coord_x_angst=pl.col("x_coord") * pl.col("pixel_size_angst"),
        coord_y_angst=pl.col("y_coord") * pl.col("pixel_size_angst"),
        diameter_angst=pl.lit(float(diameter_angst)),
    )


@protocol(
    "micrographs.pick_topaz",
    version=1,
    label="Pick with Topaz",
    citations=("Bepler et al. 2019, doi:10.1038/s41592-019-0575-8",),
)
def run(ctx: Context, params: TopazParams, inputs: Inputs) -> Outputs:
    """Reduce the micrographs, pick them, read the picks."""
    TOPAZ.find()
    columns = ["item_id", "image_path", "image_slice", "pixel_size_angst"]
    rows = inputs.micrographs.rows(columns, with_optics=True)
    sizes = rows["pixel_size_angst"].unique()
    if len(sizes) != 1:
        raise UserError(
            f"micrographs have {len(sizes)} pixel sizes, topaz takes one at a time",
            "split them with sets.filter",
        )
    folder = ctx.files / "topaz"
    items = _link(ctx, rows, folder)
    names = [f"{name}.mrc" for name in items]
    scale = scale_of(params.diameter_angst, sizes[0])
    ctx.call(TOPAZ, prepare_preprocess(names, folder, scale=scale, device=params.gpu))
    extract = prepare_extract(
        names,
        folder,
        model=params.model,
        scale=scale,
        radius_px=max(1, round(0.5 * params.diameter_angst / (scale * sizes[0]))),
        threshold=params.threshold,
        device=params.gpu,
    )
    ctx.call(TOPAZ, extract)
    found = _coordinates(parse_picks(folder), items, inputs.micrographs, params.diameter_angst)
    if not found.height:
        raise UserError(
            f"topaz found no particle in {rows.height} micrographs",
            "lower threshold, check diameter_angst, or use another model",
        )
    ctx.metric("n_picked", found.height)
    return Outputs(
        coordinates=ctx.dataset(
            COORDINATES, found, optics=inputs.micrographs.optics, source=inputs.micrographs
        )
    )
