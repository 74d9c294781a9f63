"""Compare several estimates of the CTF of the same micrographs, and keep what they agree on.

Give the micrographs and two or more estimates of their CTF, by different methods of
`micrographs.estimate_ctf` or imported. Two estimates agree up to the resolution at which their
phases differ by 90 degrees; of all choices of `n_agreeing` estimates the one that agrees best
counts (`agreement_res_angst`). Estimates that agree are averaged by inverse variance, the others
are left out.

`rejected` holds micrographs whose estimates do not agree to `max_agreement_res_angst`, or that
break one of the limits; `ctf_reason` says which. With `n_agreeing` 1 only the limits count.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from pydantic import model_validator

from verglas.core.errors import PortError
from verglas.model import MICROGRAPHS, DataSet
from verglas.protocols.ctf._estimates import Floats, averaged, best_of, companions, gather
from verglas.sdk import Context, Params, Ports, param, port, protocol

if TYPE_CHECKING:
    from verglas.algorithms.ctf.agreement import Consensus

__all__ = ["ConsensusParams", "Inputs", "Outputs", "run"]


class ConsensusParams(Params):
    """How far estimates must agree, and what is accepted."""

    n_agreeing: int = param(
        2, ge=1, le=8, help="How many estimates must agree; 1 applies the limits alone."
    )
    max_agreement_res_angst: float = param(
        6.0,
        gt=1,
        le=100,
        help="Estimates must stay within 90 degrees of phase up to this resolution.",
    )
    average: bool = param(
        True, help="Average the estimates that agree; otherwise take the best fitting of them."
    )
    min_defocus_angst: float = param(2000.0, help="Least mean underfocus.")
    max_defocus_angst: float = param(60000.0, help="Greatest mean underfocus.")
    max_astigmatism_angst: float = param(
        2000.0, gt=0, help="Greatest difference between the two defoci."
    )
    max_astigmatism_fraction: float = param(
        0.2, gt=0, le=1, help="Greatest difference as a part of the mean defocus."
    )
    max_fit_res_angst: float = param(
        10.0, gt=0, help="Reject micrographs whose rings do not reach this resolution."
    )
    max_drift_angst: float = param(
        25.0, gt=0, help="Reject micrographs that moved farther than this in one direction."
    )
    max_ice_ring_ratio: float = param(
        0.5, gt=0, help="Reject a sharp ice ring that exceeds what is beside it by this part."
    )
    max_crystal_fraction: float = param(
        0.5, gt=0, le=1, help="Reject if more than this part of the tiles has sharp reflections."
    )

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> "ConsensusParams":
        if self.min_defocus_angst > self.max_defocus_angst:
            raise ValueError("min_defocus_angst must not exceed max_defocus_angst")
        return self


class Inputs(Ports):
    """The micrographs, and estimates of their CTF."""

    micrographs: DataSet = port(MICROGRAPHS)
    estimates: list[DataSet] = port(
        MICROGRAPHS,
        needs=("ctf",),
        many=True,
        help="The same micrographs with a CTF, two or more times.",
    )


class Outputs(Ports):
    """The micrographs with their consensus CTF, in two parts."""

    micrographs: DataSet = port(MICROGRAPHS, needs=("ctf", "ctf_agreement"))
    rejected: DataSet = port(MICROGRAPHS, needs=("ctf", "ctf_agreement"))


def _columns(
    tables: list[pl.DataFrame], consensus: "Consensus", values: Mapping[str, Floats]
) -> pl.DataFrame:
    """All columns of the result, one row for each micrograph."""
    agreement = consensus.agreement_res_angst
    return companions(tables, consensus).with_columns(
        pl.lit("consensus").alias("ctf_method"),
        pl.Series("agreement_res_angst", agreement).replace([math.inf], [None]),
        pl.Series("n_agreeing", consensus.is_used.sum(axis=1).astype(np.int64)),
        *(pl.Series(name, column).fill_nan(None) for name, column in values.items()),
    )


def _reason(table: pl.DataFrame, params: ConsensusParams) -> pl.Series:
    """Why each micrograph is put aside; empty text where it is not."""
    mean = (pl.col("defocus_u_angst") + pl.col("defocus_v_angst")) / 2
    difference = pl.col("defocus_u_angst") - pl.col("defocus_v_angst")
    apart = pl.col("agreement_res_angst").fill_null(math.inf) > params.max_agreement_res_angst
    few = (pl.col("n_agreeing") < params.n_agreeing) | pl.col("defocus_u_angst").is_null()
    rules = [
        (few, "too few estimates"),
        (~few & apart, "estimates differ"),
        (~mean.is_between(params.min_defocus_angst, params.max_defocus_angst), "defocus"),
        (
            (difference > params.max_astigmatism_angst)
            | (difference > params.max_astigmatism_fraction * mean.abs()),
            "astigmatism",
        ),
    ]
    limits = (
        ("fit_res_angst", params.max_fit_res_angst, "fit resolution"),
        ("drift_angst", params.max_drift_angst, "drift"),
        ("ice_ring_ratio", params.max_ice_ring_ratio, "ice ring"),
        ("crystal_fraction", params.max_crystal_fraction, "crystals"),
    )
    rules += [(pl.col(n) > limit, why) for n, limit, why in limits if n in table.columns]
    texts = [pl.when(rule.fill_null(False)).then(pl.lit(why)) for rule, why in rules]
    return table.select(pl.concat_str(texts, separator=", ", ignore_nulls=True)).to_series()


def _report(ctx: Context, good: pl.DataFrame, bad: pl.DataFrame) -> None:
    """Key numbers and warnings."""
    ctx.metric("n_accepted", good.height)
    ctx.metric("n_rejected", bad.height)
    agreement = good["agreement_res_angst"].drop_nulls()
    if len(agreement):
        ctx.metric("median_agreement_res_angst", round(float(str(agreement.median())), 2))
    if not good.height and bad.height:
        why = bad["ctf_reason"].value_counts(sort=True)["ctf_reason"][0]
        ctx.warn(f"all {bad.height} micrographs were rejected, most for: {why}")


@protocol(
    "ctf.consensus",
    version=1,
    label="Compare CTF estimates",
    citations=("Sorzano et al. 2007, doi:10.1016/j.jsb.2007.08.013",),
)
def run(ctx: Context, params: ConsensusParams, inputs: Inputs) -> Outputs:
    """Compare, average, and split by the limits."""
    from verglas.algorithms.ctf.agreement import find_consensus

    n = len(inputs.estimates)
    if n < params.n_agreeing:
        raise PortError(
            f"ctf.consensus: {params.n_agreeing} estimates are to agree, but {n} were given",
            "give as many sets with a CTF, or set n_agreeing to 1 to apply the limits alone",
        )
    tables, estimates = gather(inputs.micrographs, inputs.estimates)
    consensus = find_consensus(
        estimates, n_agreeing=params.n_agreeing, max_res_angst=params.max_agreement_res_angst
    )
    chosen = consensus if params.average else best_of(tables, estimates, consensus)
    table = _columns(tables, consensus, averaged(chosen))
    table = table.with_columns(_reason(table, params).alias("ctf_reason"))
    compared = inputs.micrographs.with_columns(table)
    good = table.filter(pl.col("ctf_reason") == "")
    bad = table.filter(pl.col("ctf_reason") != "")
    _report(ctx, good, bad)
    return Outputs(
        micrographs=ctx.select(compared, good.select("item_id")),
        rejected=ctx.select(compared, bad.select("item_id")),
    )
