"""Hold what surrounds a data set on a page, and read its images for panels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from verglas.core.errors import FormatError
from verglas.model import DataSet
from verglas.viewers.words import quantity_text, title_of

__all__ = [
    "Scene",
    "TextTable",
    "broken_limits",
    "chosen_row",
    "read_image",
    "read_volume",
    "row_name",
]

_CHOSEN_BY = ("fit_res_angst", "score")


@dataclass(frozen=True)
class TextTable:
    """Some rows as texts, for a page.

    Attributes:
        header: titles of the columns.
        rows: as many texts as there are columns.
        caption: what it is.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""


@dataclass(frozen=True)
class Scene:
    """A data set and what belongs to it.

    Attributes:
        name: prefix of the pictures' names.
        sets: data sets of one kind that a job made, by port; the first is the one to show,
            the others are what it was parted from.
        inputs: what the job read, by port.
        params: of the job.
    """

    name: str
    sets: Mapping[str, DataSet]
    inputs: Mapping[str, Sequence[DataSet]] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)

    @property
    def port(self) -> str:
        """Name of the port of the data set to show."""
        return next(iter(self.sets))

    @property
    def data(self) -> DataSet:
        """The data set to show."""
        return self.sets[self.port]

    @property
    def others(self) -> dict[str, DataSet]:
        """The data sets beside it that have rows, by port."""
        return {port: data for port, data in list(self.sets.items())[1:] if data.n_items}

    def inputs_of(self, kind: str) -> list[DataSet]:
        """List what the job read of one kind."""
        return [data for sets in self.inputs.values() for data in sets if data.kind.id == kind]

    def parent(self) -> DataSet | None:
        """Find the input that the data set to show is a true part of, if there is one."""
        ids = self.data.rows(["item_id"])["item_id"]
        for candidate in self.inputs_of(self.data.kind.id):
            theirs = candidate.rows(["item_id"])["item_id"]
            if candidate.n_items > len(ids) and bool(ids.is_in(theirs.implode()).all()):
                return candidate
        return None


def broken_limits(
    row: Mapping[str, Any], params: Mapping[str, Any], *, is_brief: bool = False
) -> list[str]:
    """Say which limits among the parameters a row exceeds.

    A parameter `max_fit_res_angst` is the limit of the column `fit_res_angst`.

    Args:
        row: of the data set.
        params: of the job.
        is_brief: leave out what the values are.
    """
    texts = []
    for name, limit in params.items():
        side, _, column = name.partition("_")
        value = _number(row.get(column))
        if side not in ("max", "min") or value is None or _number(limit) is None:
            continue
        if (side == "max" and value > limit) or (side == "min" and value < limit):
            sign = ">" if side == "max" else "<"
            title = "" if is_brief else f"{title_of(column).lower()} "
            texts.append(f"{title}{quantity_text(column, round(value, 1))} {sign} {limit:g}")
    return texts


def chosen_row(data: DataSet) -> dict[str, Any]:
    """Choose the row that stands for all: the middle one by quality, or the first."""
    by = next((name for name in _CHOSEN_BY if name in data.columns), None)
    if by is None:
        ids = data.rows(["item_id"]).head(1)
    else:
        ids = data.rows(["item_id", by]).sort(by, nulls_last=True)
        ids = ids.slice((data.n_items - 1) // 2, 1)
    wanted = ids["item_id"][0]
    row = data.with_optics().filter(pl.col("item_id") == wanted).collect()
    return row.row(0, named=True)


def row_name(row: Mapping[str, Any]) -> str:
    """Name a row for people: its label, the name of its file, or its number."""
    label = row.get("label")
    path = row.get("image_path") or ""
    return str(label or str(path).rpartition("/")[2].partition(".")[0] or row.get("item_id", ""))


def read_image(
    data: DataSet, row: Mapping[str, Any], column: str = "image_path"
) -> NDArray[np.float32]:
    """Read the image of a row: `[h, w]`.

    Args:
        data: that the row is of.
        row: with the path, and `image_slice` for the image itself.
        column: of the path.
    """
    from verglas.io.images import open_images

    path = row.get(column)
    if not path:
        raise FormatError(f"item {row.get('item_id')} has no {column}")
    index = int(row.get("image_slice") or 0) if column == "image_path" else 0
    image: NDArray[np.float32] = open_images(data.path(str(path))).read([index])[0]
    return image


def read_volume(data: DataSet, path: str, *, max_side_px: int) -> tuple[NDArray[np.float32], int]:
    """Read a map, averaged in blocks where it is much larger than shown.

    Args:
        data: that the path is of.
        path: as stored in the table.
        max_side_px: blocks are as large as keeps twice this.

    Returns:
        `[n, n, n]`, and the side of the blocks.
    """
    from verglas.io.images import open_images

    reader = open_images(data.path(path))
    factor = max(1, max(reader.shape) // (2 * max_side_px))
    if factor == 1:
        return reader.read_all(), 1
    depth, height, width = (side // factor for side in reader.shape)
    sections = []
    for z in range(depth):
        slab = reader.read(np.arange(z * factor, (z + 1) * factor))
        slab = slab[:, : height * factor, : width * factor]
        blocks = slab.reshape(factor, height, factor, width, factor)
        sections.append(blocks.mean(axis=(0, 2, 4), dtype=np.float32))
    return np.stack(sections), factor


def _number(value: Any) -> float | None:
    """Give a number as it is, and None for anything else."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number else None
