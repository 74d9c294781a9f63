"""Put the tables of several estimates of the CTF beside each other."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from verglas.core.errors import PortError
from verglas.model import DataSet

if TYPE_CHECKING:
    from verglas.algorithms.ctf.agreement import Consensus, Estimates

__all__ = ["Floats", "averaged", "best_of", "companions", "gather"]

Floats = NDArray[np.floating[Any]]

CTF = ("defocus_u_angst", "defocus_v_angst", "defocus_angle_deg", "phase_shift_deg")
_ERROR = "defocus_error_angst"
_COMPANIONS = (
    "fit_res_angst",
    "fit_score",
    "ring_evidence",
    "drift_angst",
    "drift_angle_deg",
    "defocus_slope_x",
    "defocus_slope_y",
    "defocus_slope_error",
    "astigmatism_error_angst",
    "phase_shift_error_deg",
    "ice_thickness_angst",
    "ice_thickness_error_angst",
    "ice_ring_ratio",
    "n_reflections",
    "crystal_fraction",
    "spectrum_path",
)
_PROFILE = (
    "profile_per_angst",
    "profile_power",
    "profile_background",
    "profile_ctf2",
    "profile_score",
)


def _table(base: pl.DataFrame, data: DataSet) -> pl.DataFrame:
    """Rows of one estimate in the order of the micrographs; null where it has none."""
    names = [n for n in (*CTF, _ERROR, *_COMPANIONS, *_PROFILE) if n in data.columns]
    rows = data.rows(["item_id", "image_path", *names])
    joined = base.select("item_id", mine="image_path").join(
        rows, on="item_id", how="left", maintain_order="left"
    )
    wrong = joined.filter(pl.col("mine") != pl.col("image_path"))
    if wrong.height or rows.height > joined["image_path"].count():
        what = wrong["image_path"][0] if wrong.height else "some of its rows"
        raise PortError(
            f"{data.name} is not of the same micrographs: {what} is not among them, or elsewhere",
            "estimate the CTF of the same imported micrographs by each method",
        )
    absent = [name for name in (_ERROR, "fit_score") if name not in joined.columns]
    return joined.drop("mine", "image_path").with_columns(
        pl.lit(None, pl.Float64).alias(name) for name in absent
    )


def gather(
    micrographs: DataSet, estimates: list[DataSet]
) -> tuple[list[pl.DataFrame], "Estimates"]:
    """Read estimates as tables in one order, and as arrays.

    Args:
        micrographs: whose rows give the order.
        estimates: micrographs with a CTF.
    """
    from verglas.algorithms.ctf.agreement import Estimates
    from verglas.kernels.electron import electron_wavelength_angst

    base = micrographs.rows(["item_id", "image_path", "voltage_kv"])
    tables = [_table(base, data) for data in estimates]

    def column(name: str) -> Floats:
        columns = [t[name].cast(pl.Float64).fill_null(math.nan).to_numpy() for t in tables]
        return np.stack(columns, axis=1)

    u, v, angle = (column(name) for name in CTF[:3])
    waves = {kv: electron_wavelength_angst(kv) for kv in base["voltage_kv"].unique().to_list()}
    return tables, Estimates(
        defocus=0.5 * (u + v),
        astigmatism=0.5 * (u - v + 0j) * np.exp(2j * np.deg2rad(angle)),
        phase_shift=np.deg2rad(column(CTF[3])),
        error=column(_ERROR),
        wavelength_angst=np.array([waves[kv] for kv in base["voltage_kv"].to_list()]),
    )


def averaged(consensus: "Consensus") -> dict[str, Floats]:
    """Columns of the averaged CTF; NaN where there is none."""
    none = ~consensus.is_used.any(axis=1)
    half = np.abs(consensus.astigmatism)
    angle = np.rad2deg(0.5 * np.angle(consensus.astigmatism)) % 180.0
    columns = {
        "defocus_u_angst": consensus.defocus + half,
        "defocus_v_angst": consensus.defocus - half,
        "defocus_angle_deg": angle,
        "phase_shift_deg": np.rad2deg(consensus.phase_shift),
        "defocus_error_angst": consensus.error,
    }
    return {name: np.where(none, math.nan, values) for name, values in columns.items()}


def _ranking(tables: list[pl.DataFrame], consensus: "Consensus") -> NDArray[np.int64]:
    """Estimates of each micrograph from best to worst; those that were not used come last."""
    scores = np.stack(
        [t["fit_score"].cast(pl.Float64).fill_null(-1.0).to_numpy() for t in tables], axis=1
    )
    return np.argsort(np.where(consensus.is_used, -scores, 2.0 - scores), axis=1, kind="stable")


def best_of(
    tables: list[pl.DataFrame], estimates: "Estimates", consensus: "Consensus"
) -> "Consensus":
    """Take the best fitting estimate of those that agree instead of the average.

    Args:
        tables: in one order.
        estimates: the same as arrays.
        consensus: of them.
    """
    best = _ranking(tables, consensus)[:, 0]
    row = np.arange(len(best))
    return replace(
        consensus,
        defocus=estimates.defocus[row, best],
        astigmatism=estimates.astigmatism[row, best],
        phase_shift=estimates.phase_shift[row, best],
        error=estimates.error[row, best],
    )


def companions(tables: list[pl.DataFrame], consensus: "Consensus") -> pl.DataFrame:
    """What belongs to the estimates: of the best that was used, gaps filled from the others.

    Args:
        tables: in one order.
        consensus: of their estimates.
    """
    order = _ranking(tables, consensus)
    ranked = [_pick(tables, order[:, rank]) for rank in range(len(tables))]
    names = [n for n in (*_COMPANIONS, *_PROFILE) if any(n in t.columns for t in tables)]
    filled = {name: _coalesce([r[name] for r in ranked if name in r.columns]) for name in names}
    return pl.DataFrame({"item_id": tables[0]["item_id"], **filled})


def _pick(tables: list[pl.DataFrame], which: NDArray[np.int64]) -> pl.DataFrame:
    """Row i of table `which[i]`."""
    stacked = pl.concat(
        [t.with_columns(own=pl.lit(i), row=pl.int_range(pl.len())) for i, t in enumerate(tables)],
        how="diagonal_relaxed",
    )
    wanted = pl.DataFrame({"own": which.astype(np.int32), "row": np.arange(len(which))})
    return wanted.join(stacked, on=["own", "row"], how="left", maintain_order="left")


def _coalesce(columns: list[pl.Series]) -> pl.Series:
    """First value of each row that is not missing."""
    frame = pl.DataFrame({str(i): column for i, column in enumerate(columns)})
    return frame.select(pl.coalesce(pl.all())).to_series()
