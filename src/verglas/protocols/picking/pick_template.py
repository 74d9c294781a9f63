"""Pick particles that look like templates: class averages, or projections of a map.

Templates are turned to all angles in the plane, multiplied by the CTF of each micrograph where it
is known, and compared with the micrograph after its spectrum has been made white: the matched
filter, which finds particles as well as noise allows. A score is a number of sigmas of the noise.
The threshold follows from the number of false picks that are allowed in a micrograph without
particles (`false_picks`), or from the gap between noise and particles where it shows, whichever
is higher. Blank margins, ice and carbon are left out.

Class averages must be centred, as those of 2D classification are; particles are bright in them.
Templates only find what looks like them: pick a few micrographs by size as well and compare.
"""

from typing import TYPE_CHECKING, Any

import polars as pl

from verglas.core.errors import FormatError, ParamsError, PortError
from verglas.model import CLASSES2D, COORDINATES, MICROGRAPHS, VOLUMES, DataSet
from verglas.protocols.picking._picks import (
    CTF_COLUMNS,
    check_found,
    coordinate_rows,
    warn_of_doubt,
    write_picture,
)
from verglas.sdk import Context, Params, Ports, Task, param, port, protocol
from verglas.sdk.arrays import ArrayRef

if TYPE_CHECKING:
    from torch import Tensor

    from verglas.algorithms.picking.template import TemplatePicks
    from verglas.algorithms.picking.template_bank import TemplateBank

__all__ = ["Inputs", "Outputs", "TemplateParams", "pick", "run"]

_OPTICS = ("voltage_kv", "spherical_aberration_mm", "amplitude_contrast")
_ADVICE = (
    "check diameter_angst and that the templates show this particle; if the particles of the "
    "micrographs are bright, set bright_particles; lower threshold_shift to -1 to see more"
)


class TemplateParams(Params):
    """What the particles look like, and what is a pick."""

    diameter_angst: float = param(
        gt=10, le=5000, help="Diameter of the particle; templates are masked outside of it."
    )
    max_resolution_angst: float = param(
        20.0, ge=5, le=200, help="Finest detail that is compared; finer takes longer."
    )
    symmetry: str = param("", help="Point group of a map; empty takes what is known of it, or C1.")
    classes: tuple[int, ...] = param(
        (), help="Class averages to use, by class_index; empty takes all, the largest first."
    )
    max_templates: int = param(
        50, ge=1, le=500, advanced=True, help="Most class averages used as templates."
    )
    use_ctf: bool = param(
        True, help="Multiply templates by the CTF of each micrograph where it is known."
    )
    false_picks: float = param(
        0.5, gt=0, le=1000, help="Picks allowed in a micrograph that holds nothing but noise."
    )
    threshold_shift: float = param(
        0.0, ge=-20, le=100, help="Added to the threshold, in sigmas of the noise."
    )
    min_distance_angst: float = param(
        0.0, ge=0, help="Least distance between picks; 0 takes half the diameter."
    )
    bright_particles: bool = param(
        False, help="Particles are brighter than the ice, as in inverted micrographs."
    )
    max_local_std: float = param(
        2.5,
        gt=1,
        advanced=True,
        help="Places whose grey values vary this much more than usual are taken for ice or carbon.",
    )


class Inputs(Ports):
    """Micrographs, and class averages or a map."""

    micrographs: DataSet = port(MICROGRAPHS)
    classes: DataSet | None = port(CLASSES2D, optional=True, help="Averages to use as templates.")
    volumes: DataSet | None = port(
        VOLUMES, optional=True, help="Map to project; the first is used."
    )


class Outputs(Ports):
    """Positions, and the micrographs with a picture of their picks."""

    coordinates: DataSet = port(COORDINATES, needs=("score",))
    micrographs: DataSet = port(MICROGRAPHS)


def _bank_of_classes(params: TemplateParams, classes: DataSet) -> "TemplateBank":
    """Read the averages that are wanted, and turn them."""
    import torch

    from verglas.algorithms.picking.template_bank import bank_of_images
    from verglas.io.images import open_images

    rows = classes.rows(with_optics=True)
    if params.classes:
        known = rows["class_index"].to_list() if "class_index" in rows.columns else []
        unknown = sorted(set(params.classes) - set(known))
        if unknown:
            raise ParamsError(
                f"micrographs.pick_template classes: there is no class {unknown[0]}",
                f"the classes are {', '.join(map(str, known[:30]))}",
            )
        rows = rows.filter(pl.col("class_index").is_in(list(params.classes)))
    if "n_particles" in rows.columns:
        rows = rows.sort("n_particles", descending=True, nulls_last=True)
    rows = rows.head(params.max_templates)
    images = [
        open_images(classes.path(row["image_path"])).read([row["image_slice"]])[0]
        for row in rows.iter_rows(named=True)
    ]
    if len({image.shape for image in images}) != 1:
        raise PortError(f"{classes.name}: the averages differ in size", "give those of one job")
    pixel = float(rows["pixel_size_angst"][0])
    return bank_of_images(
        torch.stack([torch.from_numpy(image).float() for image in images]),
        pixel_size_angst=pixel,
        diameter_angst=params.diameter_angst,
        resolution_angst=params.max_resolution_angst,
    )


def _bank_of_map(params: TemplateParams, volumes: DataSet) -> "TemplateBank":
    """Read the first map and project it."""
    import torch

    from verglas.algorithms.picking.template_bank import bank_of_volume
    from verglas.io.mrc import read_mrc

    row = volumes.rows(with_optics=True).row(0, named=True)
    volume: Tensor = torch.from_numpy(read_mrc(volumes.path(row["image_path"]))[0]).float()
    return bank_of_volume(
        volume,
        pixel_size_angst=float(row["pixel_size_angst"]),
        diameter_angst=params.diameter_angst,
        resolution_angst=params.max_resolution_angst,
        symmetry=params.symmetry or row.get("symmetry") or "C1",
    )


def _make_bank(params: TemplateParams, inputs: Inputs) -> "TemplateBank":
    if (inputs.classes is None) == (inputs.volumes is None):
        raise PortError(
            "micrographs.pick_template needs class averages or a map: got "
            + ("neither" if inputs.classes is None else "both"),
            "connect one of the ports classes and volumes",
        )
    try:
        if inputs.classes is not None:
            return _bank_of_classes(params, inputs.classes)
        assert inputs.volumes is not None
        return _bank_of_map(params, inputs.volumes)
    except ValueError as error:
        raise PortError(f"micrographs.pick_template: {error}") from error


def _pick_one(
    row: dict[str, Any], task: Task, bank: "TemplateBank", params: TemplateParams, *, has_ctf: bool
) -> dict[str, Any]:
    """Find and draw the particles of one micrograph."""
    import torch

    from verglas.algorithms.picking.template import (
        MicrographCtf,
        TemplatePickConfig,
        pick_with_templates,
    )
    from verglas.io.images import open_images

    image = open_images(task.path(row["image_path"])).read([row["image_slice"]])[0]
    tensor = torch.from_numpy(image).to(task.device)
    ctf = None
    if has_ctf and row["defocus_u_angst"] is not None:
        ctf = MicrographCtf(**{name: float(row[name]) for name in (*CTF_COLUMNS, *_OPTICS)})
    picks: TemplatePicks = pick_with_templates(
        -tensor if params.bright_particles else tensor,
        pixel_size_angst=row["pixel_size_angst"],
        bank=bank,
        config=TemplatePickConfig(
            min_distance_angst=params.min_distance_angst,
            false_picks=params.false_picks,
            threshold_shift=params.threshold_shift,
            max_local_std=params.max_local_std,
        ),
        ctf=ctf,
    )
    path = task.files / f"picks_{row['item_id']:06d}.jpg"
    places = picks.position_px.cpu().double()
    radius = 0.5 * params.diameter_angst / row["pixel_size_angst"]
    write_picture(path, image, places.numpy(), radius)
    position = places * row["pixel_size_angst"]
    return {
        "item_id": row["item_id"],
        "coord_x_angst": position[:, 0].tolist(),
        "coord_y_angst": position[:, 1].tolist(),
        "score": picks.score.cpu().double().tolist(),
        "threshold": picks.threshold,
        "is_bimodal": picks.split.is_bimodal,
        "thumbnail_path": task.relative(path),
    }


def pick(
    rows: pl.DataFrame, task: Task, *, bank: ArrayRef, params: TemplateParams, has_ctf: bool
) -> pl.DataFrame:
    """Find the particles of each micrograph and draw them; one row per micrograph."""
    from verglas.algorithms.picking.template_bank import TemplateBank

    loaded = TemplateBank.from_arrays(task.load(bank)).to(task.device)
    found = []
    for done, row in enumerate(rows.iter_rows(named=True)):
        try:
            found.append(_pick_one(row, task, loaded, params, has_ctf=has_ctf))
        except FormatError as error:
            task.skip(row["item_id"], str(error))
        task.progress(done + 1, rows.height)
    return pl.DataFrame(found, infer_schema_length=None)


@protocol(
    "micrographs.pick_template",
    version=1,
    label="Pick by templates",
    citations=(
        "Sigworth 2004, doi:10.1016/j.jsb.2003.10.025",
        "Rickgauer, Grigorieff & Denk 2017, doi:10.7554/eLife.25648",
    ),
)
def run(ctx: Context, params: TemplateParams, inputs: Inputs) -> Outputs:
    """Make the bank once, then pick each micrograph."""
    bank = _make_bank(params, inputs)
    n_templates, n_basis = bank.weights.shape
    ctx.log.info("%d templates in %d basis images", n_templates, n_basis)
    micrographs = inputs.micrographs
    has_ctf = params.use_ctf and {"ctf", "optics"} <= micrographs.traits
    if params.use_ctf and not has_ctf:
        ctx.warn("the CTF of the micrographs is not known: templates are compared without it")
    columns = ["item_id", "image_path", "image_slice", "pixel_size_angst"]
    columns += (*CTF_COLUMNS, *_OPTICS) if has_ctf else ()
    picked = ctx.map(
        pick,
        micrographs,
        chunk=4,
        gpus=1,
        columns=tuple(columns),
        bank=ctx.put(bank.to_arrays()),
        params=params,
        has_ctf=has_ctf,
    )
    rows = coordinate_rows(picked, micrographs) if picked.height else picked
    check_found(picked, rows.height, _ADVICE)
    warn_of_doubt(ctx, picked, _ADVICE)
    rows = rows.with_columns(diameter_angst=pl.lit(params.diameter_angst))
    counts = picked.select("item_id", "thumbnail_path", n_particles=pl.col("score").list.len())
    ctx.metric("n_picked", rows.height)
    ctx.metric("n_templates", n_templates)
    ctx.metric("per_micrograph", round(rows.height / picked.height, 1))
    ctx.metric("median_threshold", round(float(str(picked["threshold"].median())), 2))
    return Outputs(
        coordinates=ctx.dataset(COORDINATES, rows, optics=micrographs.optics, source=micrographs),
        micrographs=micrographs.select(counts).with_columns(counts),
    )
