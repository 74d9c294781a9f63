"""Hold a data set: a kind, a lazy table, optics groups and where its images are.

A data set never changes. Selecting rows or adding columns gives a new one that remembers
its base and stores only what differs: the kept `item_id`s and the changed columns.
Derivations of derivations refer to the first base, so that reading stays one join deep.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from verglas.core.errors import FormatError, PortError
from verglas.core.ids import content_digest
from verglas.model.content import frame_digest
from verglas.model.kinds import Kind
from verglas.model.traits import traits_of
from verglas.model.validate import check_has, check_ids, conform

__all__ = ["DataSet", "Rows", "make_dataset"]

Rows = pl.DataFrame | pl.LazyFrame | pl.Series | Sequence[int]
"""What names rows: a table with `item_id`, or the ids themselves."""

_NO_OPTICS = pl.DataFrame(schema={"optics_group": pl.Int64})


@dataclass(frozen=True, eq=False)
class DataSet:
    """A table of items, its optics groups and its images.

    Make one with `make_dataset` or `open_dataset`, not with the constructor.

    Attributes:
        kind: what a row is.
        table: one row per item, lazy; columns are read when asked for.
        optics: one row per optics group.
        root: folder that relative paths in the table start from (the project).
        n_items: number of rows.
        source: ids of the data sets that this one was made from.
        id: number in the project as `d41`; empty outside of one.
        folder: where it is stored; None while it lives in memory only.
        base: the data set that this one differs from; None for a full table.
        overlay: for a derived one, `item_id` of the kept rows and the changed columns.
    """

    kind: Kind
    table: pl.LazyFrame = field(repr=False)
    optics: pl.DataFrame = field(repr=False)
    root: Path
    n_items: int
    source: tuple[str, ...] = ()
    id: str = ""
    folder: Path | None = None
    base: "DataSet | None" = field(default=None, repr=False)
    overlay: pl.LazyFrame | None = field(default=None, repr=False)
    stored_content: str | None = field(default=None, repr=False)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of the table, without those of the optics groups."""
        return tuple(self.table.collect_schema())

    @cached_property
    def traits(self) -> frozenset[str]:
        """Names of the traits that the columns give."""
        return traits_of({*self.columns, *self.optics.columns})

    @cached_property
    def content(self) -> str:
        """Digest of the kind, the rows and the optics; equal for equal content and history."""
        if self.stored_content is not None:
            return self.stored_content
        if self.base is not None and self.overlay is not None:
            parts = ("derived", self.base.content, frame_digest(self.overlay.collect()))
        else:
            parts = ("table", frame_digest(self.table.collect()), "")
        texts = (self.kind.id, *parts, frame_digest(self.optics))
        return content_digest(text.encode() for text in texts)

    @property
    def name(self) -> str:
        """The data set in words, for messages."""
        return f"data set {self.id!r} ({self.kind})" if self.id else f"data set ({self.kind})"

    def rows(
        self, columns: Collection[str] | None = None, *, with_optics: bool = False
    ) -> pl.DataFrame:
        """Read the table, or some columns of it, into memory.

        Args:
            columns: names; those of the optics groups are joined on. None takes all.
            with_optics: join the optics groups on when `columns` is None.
        """
        if columns is None:
            return (self.with_optics() if with_optics else self.table).collect()
        names = list(columns)
        missing = [name for name in names if name not in {*self.columns, *self.optics.columns}]
        if missing:
            raise PortError(f"{self.name} has no column {', '.join(missing)}")
        is_narrow = all(name in self.columns for name in names)
        return (self.table if is_narrow else self.with_optics()).select(names).collect()

    def with_optics(self) -> pl.LazyFrame:
        """Join the constants of the optics groups onto the table; the table's own win."""
        if "optics_group" not in self.columns:
            return self.table
        own = [name for name in self.columns if name != "optics_group"]
        optics = self.optics.drop(own, strict=False).lazy()
        return self.table.join(optics, on="optics_group", how="left", maintain_order="left")

    def path(self, text: str) -> Path:
        """Resolve a path as stored in the table."""
        return self.root / text

    def require(self, needs: Collection[str], *, needed_by: str) -> None:
        """Raise a `PortError` with advice unless the data set has some traits."""
        columns = {*self.columns, *self.optics.columns}
        check_has(columns, needs, what=self.name, needed_by=needed_by)

    def select(self, rows: Rows) -> "DataSet":
        """Keep some rows, in the order of this data set.

        Args:
            rows: their ids, or a table with a column `item_id`; other columns are ignored.
        """
        wanted = _as_ids(rows)
        own = self.rows(["item_id"])["item_id"]
        kept = own.filter(own.is_in(wanted.implode()))
        if len(kept) != wanted.n_unique():
            strangers = wanted.filter(~wanted.is_in(own.implode())).head(3).to_list()
            raise PortError(f"{self.name} has no items {strangers}: cannot select them")
        overlay = pl.DataFrame({"item_id": kept}).lazy()
        if self.overlay is not None:
            overlay = self.overlay.join(overlay, on="item_id", how="semi", maintain_order="left")
        return self._derive(overlay, len(kept))

    def with_columns(self, frame: pl.DataFrame) -> "DataSet":
        """Add or replace columns.

        Args:
            frame: `item_id` and the columns; one row for each item, in any order.
        """
        what = f"table of new columns for {self.name}"
        frame = conform(frame, what=what)
        check_ids(frame, what=what)
        own = self.rows(["item_id"])
        joined = own.join(frame, on="item_id", how="inner", maintain_order="left")
        if joined.height != self.n_items or frame.height != self.n_items:
            raise FormatError(
                f"{what} must have one row per item: got {frame.height} rows "
                f"of which {joined.height} match, expected {self.n_items}",
                "select the rows that have values first",
            )
        overlay = joined.lazy()
        if self.overlay is not None:
            replaced = [name for name in frame.columns if name != "item_id"]
            kept = self.overlay.drop(replaced, strict=False)
            overlay = kept.join(overlay, on="item_id", how="inner", maintain_order="left")
        return self._derive(overlay, self.n_items)

    def _derive(self, overlay: pl.LazyFrame, n_items: int) -> "DataSet":
        base = self if self.base is None else self.base
        return replace(
            self,
            table=overlaid(base.table, overlay),
            n_items=n_items,
            source=(self.id,) if self.id else self.source,
            id="",
            folder=None,
            base=base,
            overlay=overlay,
            stored_content=None,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as a path where there is one: messages to workers carry no tables."""
        if self.folder is None:
            return super().__reduce__()  # type: ignore[return-value]
        from verglas.model.dataset_files import open_dataset

        return open_dataset, (self.folder, self.root, self.id)


def make_dataset(
    kind: Kind,
    rows: pl.DataFrame | pl.LazyFrame,
    *,
    root: Path,
    optics: pl.DataFrame | None = None,
    source: Iterable[str] = (),
) -> DataSet:
    """Make a data set in memory from a table.

    Args:
        kind: what a row is; the columns must give its required traits.
        rows: one row per item; without `item_id` the rows are numbered from 0.
        root: folder that relative paths start from.
        optics: one row per `optics_group`; None where the kind needs none.
        source: ids of the data sets that this one was made from.
    """
    what = f"data set ({kind})"
    frame = rows.collect() if isinstance(rows, pl.LazyFrame) else rows
    if "item_id" not in frame.columns:
        ids = pl.int_range(frame.height, dtype=pl.Int64).alias("item_id")
        frame = frame.select(ids, pl.all())
    frame = conform(frame, what=what)
    check_ids(frame, what=what)
    optics = _NO_OPTICS if optics is None else conform(optics, what=f"optics table of {what}")
    _check_optics(frame, optics, what)
    check_has({*frame.columns, *optics.columns}, kind.required, what=what, needed_by=kind.id)
    return DataSet(
        kind=kind,
        table=frame.lazy(),
        optics=optics,
        root=root.resolve(),
        n_items=frame.height,
        source=tuple(source),
    )


def overlaid(table: pl.LazyFrame, overlay: pl.LazyFrame) -> pl.LazyFrame:
    """Keep the rows of a table that an overlay names, with the overlay's columns in place."""
    changed = [name for name in overlay.collect_schema() if name != "item_id"]
    how = "inner" if changed else "semi"
    kept = table.drop(changed, strict=False)
    return kept.join(overlay, on="item_id", how=how, maintain_order="left")  # type: ignore[arg-type]


def _as_ids(rows: Rows) -> pl.Series:
    if isinstance(rows, pl.DataFrame | pl.LazyFrame):
        if "item_id" not in rows.collect_schema():
            raise FormatError("table of the rows to keep has no column item_id")
        rows = rows.lazy().select("item_id").collect()["item_id"]
    return pl.Series("item_id", rows, dtype=pl.Int64)


def _check_optics(frame: pl.DataFrame, optics: pl.DataFrame, what: str) -> None:
    groups = optics["optics_group"]
    if groups.n_unique() != optics.height:
        raise FormatError(f"optics table of {what} repeats an optics_group")
    if "optics_group" not in frame.columns or not optics.height:
        return
    unknown = frame["optics_group"].unique().drop_nulls()
    unknown = unknown.filter(~unknown.is_in(groups.implode()))
    if len(unknown):
        raise FormatError(
            f"{what} has optics_group {unknown.to_list()[:3]} that its optics table lacks"
        )
