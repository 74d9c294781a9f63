"""Make and change plain numbers.

Every sort of parameter is here, so that options can be tried.
"""

import time
from typing import Literal

import polars as pl

from verglas.core.errors import UserError
from verglas.model import DataSet, Kind
from verglas.sdk import Context, Params, Ports, Task, param, port, protocol

NUMBERS = Kind("numbers", "Plain numbers.", ())


class Nothing(Ports):
    """No inputs."""


class Numbers(Ports):
    """Some numbers."""

    numbers: DataSet = port(NUMBERS)
    more: DataSet | None = port(NUMBERS, optional=True)


class Made(Ports):
    """Numbers that a protocol made."""

    numbers: DataSet = port(NUMBERS)


class Split(Ports):
    """Numbers in two lots."""

    numbers: DataSet = port(NUMBERS)
    rest: DataSet = port(NUMBERS)


class MakeParams(Params):
    """What to make."""

    count: int = param(5, ge=0, le=1000, help="How many numbers.")
    step_angst: float = param(1.5, gt=0, help="Distance of two numbers.")
    extra: list[float] = param([], help="Further numbers.")
    words: list[str] = param([], help="Some words, of no effect.")
    note: str = param("", help="A remark, of no effect.", advanced=True)


class ChangeParams(Params):
    """What to do with them."""

    mode: Literal["square", "root", "fail", "refuse"] = param("square", help="What is done.")
    above: float | None = param(None, help="Keep only numbers above this.")
    is_reversed: bool = param(False, help="Change the order.")
    pause_s: float = param(0.0, ge=0, help="Time that each number takes.")
    power: int = param(2, help="Exponent.", show_if={"mode": "square"})
    label: str = param("plain", help="A parameter with the name of an option.")


@protocol("numbers.make_row", version=1, label="Make numbers")
def run_make(ctx: Context, params: MakeParams, inputs: Nothing) -> Made:
    values = [i * params.step_angst for i in range(params.count)] + params.extra
    frame = pl.DataFrame({"x_value": values}, schema={"x_value": pl.Float64})
    ctx.metric("count", len(values))
    ctx.metric("length_angst", params.count * params.step_angst)
    return Made(numbers=ctx.dataset(NUMBERS, frame))


def change(
    rows: pl.DataFrame, task: Task, *, mode: str, power: int, pause_s: float
) -> pl.DataFrame:
    time.sleep(pause_s * rows.height)
    if mode == "fail":
        raise ValueError("cannot take these")
    if mode == "refuse":
        raise UserError("these are not numbers", "give others")
    for item_id, value in rows.select("item_id", "x_value").rows():
        if mode == "root" and value < 0:
            task.skip(item_id, f"{value} is negative")
    rows = rows.filter((pl.col("x_value") >= 0) | (mode != "root"))
    exponent = power if mode == "square" else 0.5
    return rows.select("item_id", x_value=pl.col("x_value") ** exponent)


@protocol("numbers.change_all", version=1, label="Change numbers")
def run_change(ctx: Context, params: ChangeParams, inputs: Numbers) -> Split:
    done = ctx.map(
        change,
        inputs.numbers,
        chunk=2,
        mode=params.mode,
        power=params.power,
        pause_s=params.pause_s,
    )
    limit = float("-inf") if params.above is None else params.above
    is_kept = pl.col("x_value") > limit
    ctx.metric("largest", done["x_value"].max() or 0.0)
    return Split(
        numbers=ctx.dataset(NUMBERS, done.filter(is_kept), source=inputs.numbers),
        rest=ctx.dataset(NUMBERS, done.filter(~is_kept), source=inputs.numbers),
    )
