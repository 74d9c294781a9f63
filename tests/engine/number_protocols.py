"""Protocols on plain numbers, for tests of the engine and the API.

Every chunk appends its key to the file that `side_log` names, so that a test can count how
often each ran.
"""

import os
import signal
import time
from pathlib import Path

import numpy as np
import polars as pl

from verglas.core.errors import UserError
from verglas.core.registry import Registry
from verglas.model import DataSet, Kind
from verglas.sdk import (
    Command,
    Context,
    Params,
    Ports,
    Task,
    Tool,
    param,
    port,
    protocol,
    spec_of,
)

NUMBERS = Kind("numbers", "Plain numbers.", ())


class Nothing(Ports):
    """No inputs."""


class Numbers(Ports):
    """Some numbers."""

    numbers: DataSet = port(NUMBERS)


class ManyNumbers(Ports):
    """Several sets of numbers."""

    sets: list[DataSet] = port(NUMBERS, many=True)


class Made(Ports):
    """Numbers that a protocol made."""

    numbers: DataSet = port(NUMBERS)


class Parts(Ports):
    """Sets of numbers that a protocol made."""

    sets: list[DataSet] = port(NUMBERS, many=True)


class MakeParams(Params):
    """How many numbers."""

    count: int = param(10, ge=0, help="How many numbers.")
    start: int = param(0, help="First number.")


class SquareParams(Params):
    """How to square."""

    power: int = param(2, ge=1, help="Exponent.")
    chunk: int = param(3, ge=1, help="Rows at a time.")
    pause_s: float = param(0.0, ge=0, help="Time that each chunk takes.")
    cpus: int = param(1, ge=1, help="Threads for each chunk.")
    side_log: str = param("", help="File to which chunks append their keys.")
    bad: list[int] = param([], help="Numbers that raise an error.")
    left_out: list[int] = param([], help="Numbers that are left out.")
    deadly: list[int] = param([], help="Numbers that kill the worker.")


def note(task: Task, side_log: str, what: str) -> None:
    if side_log:
        with Path(side_log).open("a") as file:
            file.write(f"{what} {task.key} {os.getpid()} {task.threads}\n")


def make_numbers(ctx: Context, params: MakeParams) -> DataSet:
    values = range(params.start, params.start + params.count)
    frame = pl.DataFrame({"x_value": values}, schema={"x_value": pl.Int64})
    return ctx.dataset(NUMBERS, frame.with_columns(item_id=pl.col("x_value")))


@protocol("numbers.make_range", version=1, label="Make numbers")
def run_make(ctx: Context, params: MakeParams, inputs: Nothing) -> Made:
    ctx.metric("count", params.count)
    return Made(numbers=make_numbers(ctx, params))


def power_of(
    rows: pl.DataFrame,
    task: Task,
    *,
    power: int,
    pause_s: float,
    side_log: str,
    bad: list[int],
    left_out: list[int],
    deadly: list[int],
) -> pl.DataFrame:
    note(task, side_log, "start")
    values = rows["x_value"].to_list()
    for i, value in enumerate(values):
        if value in deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        if value in bad:
            raise ValueError(f"cannot take {value}")
        if value in left_out:
            task.skip(value, "not wanted")
        task.progress(i, len(values))
        time.sleep(pause_s / len(values))
    task.log.info("powers of %d numbers", len(values))
    (task.files / "sum.txt").write_text(str(sum(values)))
    note(task, side_log, "end")
    kept = rows.filter(~pl.col("x_value").is_in(left_out))
    return kept.select(
        "item_id",
        x_value=pl.col("x_value") ** power,
        x_noise=pl.Series(task.rng.random(kept.height)),
    )


@protocol("numbers.raise_power", version=1, label="Raise numbers to a power")
def run_power(ctx: Context, params: SquareParams, inputs: Numbers) -> Made:
    rows = ctx.map(
        power_of,
        inputs.numbers,
        chunk=params.chunk,
        cpus=params.cpus,
        power=params.power,
        pause_s=params.pause_s,
        side_log=params.side_log,
        bad=params.bad,
        left_out=params.left_out,
        deadly=params.deadly,
    )
    return Made(numbers=ctx.dataset(NUMBERS, rows, source=inputs.numbers))


class SumParams(Params):
    """How to add up."""

    n_iterations: int = param(3, ge=0, help="Rounds.")
    chunk: int = param(4, ge=1, help="Rows at a time.")
    pause_s: float = param(0.0, ge=0, help="Time that each chunk takes.")
    side_log: str = param("", help="File to which chunks append their keys.")


def partial_sum(
    rows: pl.DataFrame, task: Task, *, factor: float, pause_s: float, side_log: str
) -> tuple[pl.DataFrame, dict[str, np.ndarray]]:
    note(task, side_log, "start")
    time.sleep(pause_s)
    values = rows["x_value"].to_numpy() * factor
    note(task, side_log, "end")
    return rows.select("item_id"), {"total": np.array([values.sum()], dtype=np.float32)}


@protocol("numbers.sum_up", version=1, label="Add numbers up, again and again")
def run_sum(ctx: Context, params: SumParams, inputs: Numbers) -> Made:
    def step(state, iteration):
        added = ctx.accumulate(
            partial_sum,
            inputs.numbers,
            chunk=params.chunk,
            factor=1.0 + float(state["total"][0]) % 7,
            pause_s=params.pause_s,
            side_log=params.side_log,
        )
        return {"total": added.sums[None]["total"], "n_done": iteration + 1}

    state = {"total": np.zeros(1), "n_done": 0}
    state = ctx.iterate(step, state, until=lambda s: s["n_done"] >= params.n_iterations)
    ctx.metric("total", float(state["total"][0]))
    frame = pl.DataFrame({"item_id": [0], "x_value": [float(state["total"][0])]})
    return Made(numbers=ctx.dataset(NUMBERS, frame, source=inputs.numbers))


class NoParams(Params):
    """None."""


@protocol("numbers.ask_which", version=1, label="Let a person choose numbers")
def run_ask(ctx: Context, params: NoParams, inputs: Numbers) -> Made:
    chosen = ctx.ask(NUMBERS, inputs.numbers)
    return Made(numbers=ctx.select(inputs.numbers, chosen.rows(["item_id"])))


@protocol("numbers.join_sets", version=1, label="Join sets of numbers")
def run_join(ctx: Context, params: NoParams, inputs: ManyNumbers) -> Made:
    rows = pl.concat([data.rows(["x_value"]) for data in inputs.sets])
    return Made(numbers=ctx.dataset(NUMBERS, rows))


@protocol("numbers.split_set", version=1, label="Split numbers into even and odd")
def run_split(ctx: Context, params: NoParams, inputs: Numbers) -> Parts:
    rows = inputs.numbers.rows()
    parts = [rows.filter(pl.col("x_value") % 2 == rest) for rest in (0, 1)]
    return Parts(sets=[ctx.select(inputs.numbers, part) for part in parts])


class Screened(Ports):
    """Numbers that were kept and numbers that were not."""

    rejected: DataSet = port(NUMBERS)
    numbers: DataSet = port(NUMBERS)


class ScreenParams(Params):
    """What to keep."""

    below: int = param(5, help="Numbers below are kept.")
    seed: int = param(0, ge=0, help="Of nothing, but of this name.")


@protocol("numbers.screen_large", version=1, label="Screen large numbers")
def run_screen(ctx: Context, params: ScreenParams, inputs: Numbers) -> Screened:
    ctx.metric("seed", params.seed)
    rows = inputs.numbers.rows()
    is_kept = pl.col("x_value") < params.below
    return Screened(
        numbers=ctx.select(inputs.numbers, rows.filter(is_kept)),
        rejected=ctx.select(inputs.numbers, rows.filter(~is_kept)),
    )


class CallParams(Params):
    """What to call."""

    code: int = param(0, help="Exit code of the program.")


@protocol("numbers.call_shell", version=1, label="Call an outside program")
def run_call(ctx: Context, params: CallParams, inputs: Nothing) -> Made:
    tool = Tool("shell", "sh")
    script = f"echo 'first; $HOME \"line\"'; echo last line; exit {params.code}"
    completed = ctx.call(tool, Command(("-c", script), ctx.files / "shell"))
    frame = pl.DataFrame({"x_value": [len(completed.output)]})
    return Made(numbers=ctx.dataset(NUMBERS, frame))


@protocol("numbers.break_down", version=1, label="Raise an unexpected error")
def run_break(ctx: Context, params: NoParams, inputs: Nothing) -> Made:
    raise KeyError("unexpected")


class FileParams(Params):
    """A file that may be absent."""

    path: str = param(help="Path.")


def read_number(rows: pl.DataFrame, task: Task, *, path: str) -> pl.DataFrame:
    if Path(path).is_file():
        return rows.with_columns(x_value=int(Path(path).read_text()))
    task.skip(0, "the file is absent")
    return rows.clear()


@protocol("numbers.read_file", version=1, label="Read a number from a file")
def run_read(ctx: Context, params: FileParams, inputs: Nothing) -> Made:
    rows = pl.DataFrame({"item_id": [0], "x_value": [0]})
    found = ctx.map(read_number, rows, chunk=1, path=params.path)
    if not found.height:
        raise UserError("nothing could be read")
    return Made(numbers=ctx.dataset(NUMBERS, found))


def number_registry() -> Registry:
    """Register the protocols of this module."""
    registry = Registry()
    for run in (
        run_make, run_power, run_sum, run_ask, run_join, run_split, run_call, run_break, run_screen,
        run_read,
    ):  # fmt: skip
        spec = spec_of(run)
        registry.protocols[spec.id] = spec
    return registry
