"""Places that several pickers found, as arrays and as rows of a table."""

from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from verglas.model import DataSet

if TYPE_CHECKING:
    from verglas.algorithms.picking.agreement import Agreement

__all__ = ["Places", "picker_curves", "place_rows"]

Floats = NDArray[np.float64]


class Places:
    """All places of all micrographs as arrays.

    Attributes:
        found: `[n, pickers]` bool.
        points: `[n, pickers, 2]`, Å, NaN where a picker found nothing.
        scores, ids: `[n, pickers]`.
        micrograph: `[n]`.
        features, background: of the places and of empty ones, or None.
    """

    def __init__(self, work: pl.DataFrame, merged: pl.DataFrame, n_pickers: int) -> None:
        rows = merged.join(work, on="item_id", how="left", maintain_order="left")
        points, scores, ids, member, micrograph = [], [], [], [], []
        for row in rows.iter_rows(named=True):
            own = np.array(row["member"], dtype=np.int64).reshape(-1, n_pickers)
            member.append(own)
            micrograph += [row["item_id"]] * len(own)
            lists = {
                name: [
                    np.array(row[f"{name}_{i}"] or [], dtype=np.float64) for i in range(n_pickers)
                ]
                for name in ("x", "y", "score", "id")
            }
            table = {
                name: np.stack([np.append(v, np.nan)[own[:, i]] for i, v in enumerate(values)], 1)
                for name, values in lists.items()
            }
            points.append(np.stack([table["x"], table["y"]], axis=2))
            scores.append(table["score"])
            ids.append(table["id"])
        self.found = np.concatenate(member) >= 0
        self.points, self.ids = np.concatenate(points), np.concatenate(ids)
        self.scores = np.concatenate(scores)
        self.micrograph = np.array(micrograph, dtype=np.int64)
        self.features = _stacked(rows["features"])
        self.background = _stacked(rows["background"])


def _stacked(lists: pl.Series) -> Floats | None:
    flat = [values for parts in lists.to_list() for values in parts]
    return np.array(flat, dtype=np.float64) if flat else None


def _positions(places: Places) -> Floats:
    from verglas.algorithms.picking.merge import picker_variances, weighted_positions

    there = places.found[..., None]
    filled = np.where(there, places.points, 0.0)
    mean = filled.sum(axis=1) / places.found.sum(axis=1)[:, None]
    offsets = np.where(there, filled - mean[:, None], 0.0)
    variance = picker_variances(offsets, places.found)
    return weighted_positions(filled, places.found, variance)


def place_rows(
    sets: list[DataSet],
    micrographs: DataSet | None,
    places: Places,
    probability: Floats,
    work: pl.DataFrame,
) -> pl.DataFrame:
    """Make one row per place; the rest is that of the first picker that found it.

    Args:
        sets: of the pickers.
        micrographs: that were looked at, or None.
        places: in them.
        probability: `[n]`, of a particle.
        work: micrographs with their numbers.
    """
    position = _positions(places)
    first = places.found.argmax(axis=1)
    table = pl.DataFrame(
        {
            "place": np.arange(len(first)),
            "set": first,
            "old_id": places.ids[np.arange(len(first)), first].astype(np.int64),
            "coord_x_angst": position[:, 0],
            "coord_y_angst": position[:, 1],
            "score": probability,
            "n_pickers": places.found.sum(axis=1),
            "work_id": places.micrograph,
        }
    )
    kept = [set(data.columns) for data in sets]
    common = [name for name in sets[0].columns if all(name in own for own in kept)]
    common = [n for n in common if n not in (*table.columns, "source_id", "optics_group")]
    parts = []
    for i, data in enumerate(sets):
        own = data.rows(common).rename({"item_id": "old_id"})
        parts.append(table.filter(pl.col("set") == i).join(own, on="old_id", how="left"))
    rows = pl.concat(parts, how="vertical_relaxed").sort("place")
    if micrographs is not None:
        linked = micrographs.rows(["item_id", "optics_group"])
        rows = rows.drop("micrograph_id").join(
            linked.rename({"item_id": "micrograph_id"}),
            left_on="work_id",
            right_on="micrograph_id",
            how="left",
            maintain_order="left",
            coalesce=False,
        )
    else:
        numbers = work.select(work_id="item_id", number="micrograph_id")
        rows = rows.drop("micrograph_id").join(
            numbers, on="work_id", how="left", maintain_order="left"
        ).rename({"number": "micrograph_id"})  # fmt: skip
        if all("optics_group" in own for own in kept):
            groups = sets[0].rows(["micrograph_path", "optics_group"])
            rows = rows.join(
                groups.unique("micrograph_path", keep="first"),
                on="micrograph_path",
                how="left",
                maintain_order="left",
            )
    return rows.drop("place", "set", "old_id", "work_id").with_columns(
        source_id=pl.col("micrograph_id")
    )


def picker_curves(places: Places, agreement: "Agreement", names: list[str]) -> pl.DataFrame:
    """How precise each picker is when only its best picks are taken."""
    rows = []
    for i, name in enumerate(names):
        own = places.found[:, i]
        probability, score = agreement.probability[own], places.scores[own, i]
        order = np.argsort(-np.nan_to_num(score, nan=0.0), kind="stable")
        n = np.arange(1, len(order) + 1)
        precision = np.cumsum(probability[order]) / n
        chosen = np.unique(np.linspace(0, len(n) - 1, min(60, len(n))).round().astype(int))
        recall = n * precision / max(agreement.n_particles, 1e-9)
        rows.append(
            {
                "source_id": 0,
                "label": name,
                "x_per_angst": [],
                "x": recall[chosen].clip(0, 1).tolist(),
                "y": precision[chosen].tolist(),
                "x_label": "Share of all particles (recall, estimated)",
                "y_label": "Share of particles among the picks (precision, estimated)",
            }
        )
    schema = {
        "x_per_angst": pl.List(pl.Float64),
        "x": pl.List(pl.Float64),
        "y": pl.List(pl.Float64),
    }
    return pl.DataFrame(rows, schema_overrides=schema)
