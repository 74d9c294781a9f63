"""Bring particles from tables to the likelihood engine: images, optics, noise groups, views.

Shared by the protocols that classify or refine. A protocol calls `read_stack` and
`initial_noise`; its chunk functions call `views_of_rows`. torch is imported inside.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from verglas.core.errors import FormatError, PortError
from verglas.io.images import ImageRows, open_images
from verglas.model import DataSet
from verglas.sdk import Context, Task

if TYPE_CHECKING:
    import torch

    from verglas.algorithms.aberrations import Aberrations
    from verglas.algorithms.image_tables import Images
    from verglas.algorithms.views import Optics, Views
    from verglas.kernels.disc import HalfDisc

__all__ = [
    "ABERRATION_COLUMNS",
    "ParticleStack",
    "aberration_phases",
    "aberrations_of",
    "add_shell_power",
    "first_noise",
    "image_source",
    "images_of",
    "initial_noise",
    "load_images",
    "noise_groups",
    "optics_of",
    "read_images",
    "read_stack",
    "view_blocks",
    "views_of_rows",
]

_CTF = ("defocus_u_angst", "defocus_v_angst", "defocus_angle_deg", "phase_shift_deg")
_OPTICS = ("pixel_size_angst", "voltage_kv", "spherical_aberration_mm", "amplitude_contrast")
ABERRATION_COLUMNS = (
    "beam_tilt_x_mrad",
    "beam_tilt_y_mrad",
    "odd_zernike",
    "even_zernike",
    "magnification_00",
    "magnification_01",
    "magnification_10",
    "magnification_11",
)
_SMALLEST_GROUP = 20
_BLOCK = 128  # images in memory at a time
_VIEWS_GB = 0.4  # for a block of views
_BYTES_PER_COEFFICIENT = 64  # data, CTF, their weighted forms and temporaries


@dataclass(frozen=True)
class ParticleStack:
    """Particles of one box and one pixel size, ready to be cut into chunks.

    Attributes:
        rows: `item_id`, image, CTF, constants of the microscope, `noise_group`, and what
            else was asked for.
        n_groups: number of noise groups.
        box_px: side of the images.
        pixel_size_angst: of the images.
    """

    rows: pl.DataFrame
    n_groups: int
    box_px: int
    pixel_size_angst: float


def read_stack(data: DataSet, *, extra: tuple[str, ...] = (), needed_by: str) -> ParticleStack:
    """Read what the engine needs of a data set, and check that the images are of one size.

    Args:
        data: particles with optics and CTF.
        extra: further columns to keep, where the data set has them; aberrations always are.
        needed_by: id of the protocol, for messages.
    """
    data.require(("optics", "ctf"), needed_by=needed_by)
    if data.n_items == 0:
        raise PortError(f"{data.name} holds no particles", "loosen what came before")
    known = {*data.columns, *data.optics.columns}
    kept = [name for name in ("optics_group", *ABERRATION_COLUMNS, *extra) if name in known]
    names = dict.fromkeys(("item_id", "image_path", "image_slice", *_CTF, *_OPTICS, *kept))
    rows = data.rows(tuple(names))
    bad = rows.filter(pl.any_horizontal(pl.col(*_CTF, *_OPTICS).is_null()))
    if bad.height:
        raise PortError(
            f"{bad.height} particles of {data.name} lack CTF or optics, as item "
            f"{bad['item_id'][0]}",
            "select the particles that have them",
        )
    sizes = sorted(rows["pixel_size_angst"].unique().to_list())
    if len(sizes) > 1:
        raise PortError(
            f"{data.name} has {len(sizes)} pixel sizes, {sizes[0]:g} to {sizes[-1]:g} Å, in "
            "pixel_size_angst of its optics groups",
            f"{needed_by} takes particles of one pixel size; extract them so",
        )
    groups = noise_groups(data)
    rows = rows.join(groups, on="item_id", how="left", maintain_order="left")
    return ParticleStack(
        rows=rows,
        n_groups=int(groups["noise_group"].n_unique()),
        box_px=_box(data, rows, needed_by),
        pixel_size_angst=float(sizes[0]),
    )


def _box(data: DataSet, rows: pl.DataFrame, needed_by: str) -> int:
    """Return the side of all images, from the header of every stack.

    Files that cannot be opened are named where their images are read.
    """
    stacks = rows.group_by("optics_group", "image_path", maintain_order=True).len()
    error = FormatError(f"no image of {data.name} can be read")
    sides: list[int | None] = []
    for _, path, _ in stacks.iter_rows():
        try:
            _, height, width = open_images(data.path(path)).shape
        except FormatError as found:
            error = found
            sides.append(None)
            continue
        if height != width:
            raise FormatError(f"particles must be square: got {width} x {height} in {path!r}")
        sides.append(height)
    found_sides = stacks.with_columns(side=pl.Series(sides, dtype=pl.Int64)).drop_nulls("side")
    if not found_sides.height:
        raise error
    _check_one_box(data, found_sides, needed_by)
    return int(found_sides["side"][0])


def _check_one_box(data: DataSet, stacks: pl.DataFrame, needed_by: str) -> None:
    sizes = stacks.group_by("side").agg(pl.col("len").sum(), pl.col("image_path").first())
    if sizes.height == 1:
        return
    sizes = sizes.sort("side")
    groups = stacks.group_by("optics_group").agg(pl.col("side").n_unique())
    where = "in the files of image_path"
    if groups["side"].max() == 1:
        where = (
            f"box_px differs between its optics groups {groups['optics_group'].sort().to_list()}"
        )
    named = ", ".join(
        f"{row['len']} particles of {row['side']} px, as in {row['image_path']!r}"
        for row in sizes.head(3).iter_rows(named=True)
    )
    raise PortError(
        f"{data.name} has {sizes.height} box sizes, {sizes['side'][0]} to {sizes['side'][-1]} px: "
        f"{where}: {named}",
        f"{needed_by} takes particles of one box size; extract them so",
    )


def noise_groups(data: DataSet) -> pl.DataFrame:
    """Put particles that share their noise into groups.

    A group is a micrograph, or an optics group where micrographs are not known. In the
    order of their ids, micrographs are joined until a group has 20 particles; what is left
    at the end goes to the last group.

    Returns:
        `item_id` and `noise_group`, from 0.
    """
    known = ("micrograph_id", "micrograph_path", "optics_group")
    name = next((name for name in known if name in data.columns), None)
    if name is None:
        return data.rows(("item_id",)).with_columns(noise_group=pl.lit(0, pl.Int64))
    rows = data.rows(("item_id", name))
    counts = rows.group_by(name).len().sort(name, nulls_last=True)
    group, size, groups = 0, 0, []
    for n in counts["len"].to_list():
        if size >= _SMALLEST_GROUP:
            group, size = group + 1, 0
        groups.append(group)
        size += n
    if group and size < _SMALLEST_GROUP:
        groups = [min(value, group - 1) for value in groups]
    table = counts.select(name, noise_group=pl.Series(groups, dtype=pl.Int64))
    rows = rows.join(table, on=name, how="left", nulls_equal=True, maintain_order="left")
    return rows.select("item_id", "noise_group")


def load_images(rows: pl.DataFrame, task: Task) -> "tuple[pl.DataFrame, torch.Tensor]":
    """Read images; those that cannot be used are named and left out.

    Args:
        rows: with `item_id`, `image_path` and `image_slice`.
        task: of the chunk.

    Returns:
        The rows whose images were read, and the images `[b, n, n]`.
    """
    import torch

    rows, images = read_images(rows, image_source(rows, task), task)
    return rows, torch.from_numpy(images)


def image_source(rows: pl.DataFrame, task: Task) -> ImageRows:
    """Name the images of rows as one source, whose files stay open."""
    known = {path: task.path(path) for path in rows["image_path"].unique()}
    return ImageRows([known[path] for path in rows["image_path"]], rows["image_slice"].to_numpy())


def read_images(
    rows: pl.DataFrame, source: ImageRows, task: Task, start: int = 0
) -> tuple[pl.DataFrame, Any]:
    """Read images as a numpy array; those that cannot be used are named and left out.

    Args:
        rows: consecutive ones of those that the source was made of.
        source: from `image_source`.
        task: of the chunk.
        start: place of the first row in the source.

    Returns:
        The rows whose images were read, and the images `[b, n, n]`, float32.
    """
    import numpy as np

    images, usable = _read_usable(source, rows, task, start)
    # a sum is not finite if one of its terms is not
    finite = np.isfinite(images.sum(axis=(1, 2)))
    for item in rows["item_id"].filter(pl.Series(usable & ~finite)):
        task.skip(item, "image holds values that are not finite")
    usable &= finite
    if usable.all():
        return rows, images
    return rows.filter(pl.Series(usable)), images[usable]


def _read_usable(source: ImageRows, rows: pl.DataFrame, task: Task, start: int) -> tuple[Any, Any]:
    """Read all at once, or one by one where that fails."""
    import numpy as np

    usable = np.ones(rows.height, dtype=bool)
    try:
        return source.read(range(start, start + rows.height)), usable
    except FormatError:
        pass  # found out which below
    images: list[Any] = []
    for i, item in enumerate(rows["item_id"]):
        try:
            images.append(source.read([start + i])[0])
        except FormatError as error:
            task.skip(item, str(error))
            usable[i] = False
            images.append(None)
    shape = next((image.shape for image in images if image is not None), (1, 1))
    zero = np.zeros(shape, np.float32)
    return np.stack([zero if image is None else image for image in images]), usable


def _blocks(rows: pl.DataFrame, task: Task) -> "Iterator[tuple[pl.DataFrame, torch.Tensor]]":
    for start in range(0, rows.height, _BLOCK):
        block, images = load_images(rows.slice(start, _BLOCK), task)
        if block.height:
            yield block, images


def optics_of(rows: pl.DataFrame) -> "Optics":
    """Take CTF and constants of the microscope out of rows that have the optics joined."""
    import torch

    from verglas.algorithms.views import Optics

    names = (*_CTF, *_OPTICS[1:])
    columns = rows.select(pl.col(names).cast(pl.Float64)).to_numpy()
    return Optics(*torch.tensor(columns).unbind(1))


def images_of(
    rows: pl.DataFrame, rotations_ref_to_img: Any, shifts_angst: Any, group: Any
) -> "Images":
    """Take what loops without tensors want to know of images out of rows with their optics.

    Args:
        rows: as for `optics_of`.
        rotations_ref_to_img: `[b, 3, 3]`.
        shifts_angst: `[b, 2]`.
        group: `[b]`, place of each row's group among the aberrations.
    """
    from verglas.algorithms.image_tables import Images

    names = (*_CTF, *_OPTICS[1:])
    columns = rows.select(pl.col(names).cast(pl.Float64)).to_numpy()
    constants = dict(zip(names, columns.T, strict=True))
    return Images(rotations_ref_to_img, shifts_angst, group=group, **constants)


def aberrations_of(rows: pl.DataFrame) -> "tuple[list[Aberrations], Any]":
    """Take the aberrations of each optics group out of rows that have the optics joined.

    Returns:
        One for each group, and the place of each row's group among them, `[b]`.
    """
    import numpy as np

    from verglas.algorithms.aberrations import Aberrations

    names = [
        name for name in ("optics_group", *ABERRATION_COLUMNS, *_OPTICS[1:]) if name in rows.columns
    ]
    if "optics_group" not in names:
        return [Aberrations()], np.zeros(rows.height, np.int64)
    groups = rows.select(names).unique("optics_group", maintain_order=True)
    place = {group: i for i, group in enumerate(groups["optics_group"])}
    places = rows["optics_group"].replace_strict(place, return_dtype=pl.Int64).to_numpy()
    return [Aberrations.of_row(row) for row in groups.iter_rows(named=True)], places


def aberration_phases(
    rows: pl.DataFrame, disc: "HalfDisc", pixel_size_angst: float
) -> "tuple[torch.Tensor | None, torch.Tensor | None]":
    """Return `[b, k]` odd and even phases in radians, or None where no row has any."""
    import torch

    groups, places = aberrations_of(rows)
    if not any(group.odd or group.even for group in groups):
        return None, None
    frequencies = disc.frequencies_px.double().numpy() / (disc.box * pixel_size_angst)
    tables = [
        [getattr(group, f"{kind}_phase_rad")(frequencies) for group in groups]
        for kind in ("odd", "even")
    ]
    odd, even = (torch.tensor(table).float()[places] for table in tables)
    return odd, even


def views_of_rows(
    rows: pl.DataFrame,
    task: Task,
    *,
    disc: "HalfDisc",
    noise_power: "torch.Tensor",
    scale: "torch.Tensor",
    pixel_size_angst: float,
    ctf_applied: str = "full",
    b_factor_angst2: "torch.Tensor | None" = None,
) -> "tuple[pl.DataFrame, Views]":
    """Make the views of a chunk on its device, a block of images at a time.

    Args:
        rows: of a `ParticleStack`.
        task: of the chunk.
        disc: the coefficients wanted.
        noise_power: `[g, s]`, by noise group.
        scale: `[g]`.
        pixel_size_angst: of the images.
        ctf_applied: "flipped" for images whose phases were flipped.
        b_factor_angst2: `[g]`, envelope of each noise group.

    Returns:
        The rows whose images were read, and their views.
    """
    import torch

    from verglas.algorithms.devices import to_device
    from verglas.algorithms.views import Views, make_views

    device = task.device
    there = to_device(disc, device)
    noise_power, scale, b_factor_angst2 = to_device((noise_power, scale, b_factor_angst2), device)
    kept, parts = [], []
    for block, images in _blocks(rows, task):
        kept.append(block)
        odd, even = aberration_phases(block, disc, pixel_size_angst)
        parts.append(
            make_views(
                images.to(device),
                optics=to_device(optics_of(block), device),
                noise_power=noise_power,
                scale=scale,
                group=torch.from_numpy(block["noise_group"].to_numpy().copy()).to(device),
                disc=there,
                pixel_size_angst=pixel_size_angst,
                ctf_applied=ctf_applied,
                b_factor_angst2=b_factor_angst2,
                odd_phase_rad=to_device(odd, device),
                even_phase_rad=to_device(even, device),
            )
        )
    if not parts:
        raise FormatError(f"none of {rows.height} images from {rows['image_path'][0]!r} is usable")
    return pl.concat(kept), Views.join(parts)


def view_blocks(
    rows: pl.DataFrame, task: Task, *, disc: "HalfDisc", **how: Any
) -> "Iterator[tuple[pl.DataFrame, Views]]":
    """Make the views of a chunk in blocks that fit into memory, however long the chunk is.

    Args:
        rows: of a `ParticleStack`.
        task: of the chunk.
        disc: the coefficients wanted.
        how: further arguments of `views_of_rows`.

    Yields:
        The rows of each block whose images were read, and their views.
    """
    import torch

    from verglas.algorithms.batching import block_size, budget_gb

    budget = budget_gb(_VIEWS_GB, torch.device(task.device))
    per_view = _BYTES_PER_COEFFICIENT * disc.n_coefficients
    size = block_size(per_view, budget_gb=budget, most=rows.height)
    unusable: FormatError | None = None
    n_blocks = 0
    for start in range(0, rows.height, size):
        try:
            made = views_of_rows(rows.slice(start, size), task, disc=disc, **how)
        except FormatError as error:  # every image of this block is named already
            unusable = error
            continue
        n_blocks += 1
        yield made
    if unusable is not None and not n_blocks:
        raise unusable


def add_shell_power(
    rows: pl.DataFrame, task: Task, *, radius: int, n_groups: int
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Sum half the squared modulus of the images' transforms by group and shell."""
    import numpy as np

    from verglas.kernels.disc_list import list_disc
    from verglas.kernels.real_fft import rfftn

    power, count = np.zeros((2, n_groups, radius + 1))
    kept = []
    source = image_source(rows, task)
    for start in range(0, rows.height, _BLOCK):
        block, images = read_images(rows.slice(start, _BLOCK), source, task, start)
        if not block.height:
            continue
        disc = list_disc(images.shape[-1], radius)
        images_ft = rfftn(images, 2).reshape(len(images), -1)[:, disc.index]
        square = images_ft.real**2 + images_ft.imag**2
        # shells follow one another in the list; that of the origin is empty
        by_shell = np.add.reduceat(square, disc.ends[:-1], axis=1, dtype=np.float64)
        group = block["noise_group"].to_numpy()
        np.add.at(power[:, 1:], group, by_shell / 2)
        np.add.at(count[:, 1:], group, np.diff(disc.ends).astype(np.float64))
        kept.append(block.select("item_id"))
    done = pl.concat(kept) if kept else rows.select("item_id").clear()
    return done, {"power": power, "count": count}


def initial_noise(
    ctx: Context, stack: ParticleStack, *, radius: int, chunk: int = 1000
) -> "tuple[ParticleStack, torch.Tensor]":
    """Take the power of the images themselves as the first estimate of the noise.

    Args:
        ctx: of the job.
        stack: the particles.
        radius: last shell wanted.
        chunk: particles at a time.

    Returns:
        The stack without images that could not be read, and `[g, radius + 1]`, the
        variance of one real component of the unscaled transform.
    """
    import torch

    usable, noise = first_noise(ctx, stack, radius=radius, chunk=chunk)
    return usable, torch.from_numpy(noise)


def first_noise(
    ctx: Context, stack: ParticleStack, *, radius: int, chunk: int = 1000
) -> tuple[ParticleStack, Any]:
    """Do what `initial_noise` does, without tensors."""
    import numpy as np

    from verglas.algorithms.em.shell_noise import noise_of_residuals

    if any(group.is_magnified for group in aberrations_of(stack.rows)[0]):
        ctx.warn(
            "the anisotropic magnification of the particles is not taken into account here; "
            "particles.reconstruct does so"
        )
    found = ctx.accumulate(
        add_shell_power, stack.rows, chunk=chunk, radius=radius, n_groups=stack.n_groups
    )
    rows = stack.rows.join(found.rows, on="item_id", how="semi", maintain_order="left")
    if not rows.height:
        raise FormatError(f"none of {stack.rows.height} images could be read")
    usable = ParticleStack(rows, stack.n_groups, stack.box_px, stack.pixel_size_angst)
    sums = found.sums[None]
    unknown = np.ones((stack.n_groups, radius + 1))
    return usable, noise_of_residuals(sums["power"], sums["count"], unknown)
