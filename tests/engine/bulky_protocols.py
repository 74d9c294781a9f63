"""A protocol whose results take much space, for tests of full disks."""

import numpy as np
import polars as pl

from tests.engine.number_protocols import NUMBERS
from verglas.core.registry import Registry
from verglas.model import DataSet
from verglas.sdk import Context, Params, Ports, Task, param, port, protocol, spec_of


class BulkParams(Params):
    """How much."""

    n_chunks: int = param(12, ge=1, help="How many chunks.")
    n_bytes: int = param(350_000, ge=0, help="Size of each.")


class BulkInputs(Ports):
    """None."""


class BulkOutputs(Ports):
    """What was made."""

    numbers: DataSet = port(NUMBERS)


def make_bulk(
    rows: pl.DataFrame, task: Task, *, n_bytes: int
) -> tuple[pl.DataFrame, dict[str, np.ndarray]]:
    bulk = task.rng.integers(0, 255, n_bytes, dtype=np.uint8)
    return rows, {"bulk": bulk}


@protocol("bulk.make_much", version=1, label="Make much data")
def run_bulk(ctx: Context, params: BulkParams, inputs: BulkInputs) -> BulkOutputs:
    rows = pl.DataFrame({"item_id": range(params.n_chunks)})
    made = ctx.accumulate(make_bulk, rows, chunk=1, n_bytes=params.n_bytes)
    return BulkOutputs(numbers=ctx.dataset(NUMBERS, made.rows.with_columns(x_value=pl.lit(1))))


def bulky_registry() -> Registry:
    """Register the protocol of this module."""
    return Registry(protocols={"bulk.make_much": spec_of(run_bulk)})
