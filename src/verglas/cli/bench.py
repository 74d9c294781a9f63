"""`verglas bench`: how fast and how good the engine is on this machine."""

import dataclasses
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from verglas.cli._console import err, out, print_json, print_table
from verglas.cli._options import AsJson, Workers
from verglas.core.errors import UserError

if TYPE_CHECKING:
    from verglas.api.bench import Result
    from verglas.api.bench_peer import Peer

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})

_COLUMNS = ("job", "CPU s", "wall s", "MB", "reached", "wanted", "peer, as published", "peer here")


@app.callback()
def bench() -> None:
    """Measure the engine on this machine."""


@app.command("em")
def run_em(
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Stacks with truth as STAR files (oct48, asym48, ...); by default they are "
            "simulated.",
            show_default=False,
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="JOB",
            help="Only this job; repeat it for several. 'scaling' times growth with the number of "
            "particles and the box.",
            show_default=False,
        ),
    ] = None,
    project_path: Annotated[
        Path,
        typer.Option("--project", "-p", metavar="FOLDER", help="Made if it is not there."),
    ] = Path("bench-em"),
    with_peers: Annotated[
        bool, typer.Option("--peers", help="Run RELION too, if it is on the search path.")
    ] = False,
    on_gpu: Annotated[
        bool,
        typer.Option(
            "--gpu",
            help="Instead: compare GPU and processor, then refine 100,000 images of 128 px.",
        ),
    ] = False,
    limit_s: Annotated[
        float, typer.Option("--limit-s", min=1.0, metavar="S", help="End a job after so long.")
    ] = 3600.0,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Time classification, refinement and reconstruction, and compare with the truth.

    Processor time is that of all processes of each job, start-up included.
    """
    from verglas.api.bench_cases import SCALING, select_cases
    from verglas.engine.slots import usable_gpus

    if on_gpu and not usable_gpus():
        raise UserError(
            "no GPU that torch can use is visible on this machine",
            "see `verglas doctor`, or run without --gpu",
        )
    named = [name for name in only or [] if name != SCALING]
    cases = [] if only and not named else select_cases(named)
    if SCALING in (only or []) and not on_gpu:
        _print_scaling(project_path, limit_s, as_json=as_json)
        if not cases:
            return
    how: dict[str, Any] = {"workers": workers, "limit_s": limit_s}
    if not on_gpu:
        how |= {"cases": cases, "data": data}
    _run_and_print(project_path, how, with_peers=with_peers, on_gpu=on_gpu, as_json=as_json)


def _run_and_print(
    folder: Path, how: dict[str, Any], *, with_peers: bool, on_gpu: bool, as_json: bool
) -> None:
    """Run the jobs, saying what is done now, and print the table."""
    from verglas.algorithms.em.throughput import measure_throughput
    from verglas.api.bench import run_cases
    from verglas.api.bench_gpu import run_gpu
    from verglas.api.bench_peer import find_peer
    from verglas.cli.process import open_or_make

    peer = find_peer()
    err().print(_peer_text(peer))
    rates = measure_throughput()
    how |= {"tell": lambda text: err().print(text)}
    results = []
    with open_or_make(folder) as project:
        if on_gpu:
            found = run_gpu(project, **how)
        else:
            found = run_cases(project, peer=peer if with_peers else None, **how)
        for result in found:
            results.append(result)
            err().print("  " + " ".join(text for text in _cells(result)[:5] if text))
    if as_json:
        print_json(_as_json(results, peer, rates))
        return
    print_table("", _COLUMNS, [_cells(result) for result in results], right=_COLUMNS[1:4])
    out().print(
        f"dense scoring {rates.scoring_gflops:.0f} of {rates.ceiling_gflops:.0f} GFLOP/s that a "
        f"matrix product reaches on one thread: {100 * rates.fraction:.0f} %"
    )


def _print_scaling(folder: Path, limit_s: float, *, as_json: bool) -> None:
    """Refine more and larger images, and print times, memory and fitted exponents."""
    from verglas.api.bench_scaling import BY_BOX, BY_NUMBER, as_plain, growth, run_sizes

    sizes = list(dict.fromkeys((*BY_NUMBER, *BY_BOX)))
    made = {}
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="scaling-", dir=folder) as scratch:
        for found in run_sizes(Path(scratch), sizes, limit_s=limit_s):
            made[found.size] = found
            err().print(f"{found.size.name}: {found.cpu_s:.1f} CPU s, {found.peak_mb:.0f} MB")
    fits = [
        *growth("n_particles", [made[size] for size in BY_NUMBER]),
        *growth("box_px", [made[size] for size in BY_BOX]),
    ]
    if as_json:
        fitted = [dataclasses.asdict(fit) for fit in fits]
        print_json({"scaling": as_plain(list(made.values())), "growth": fitted})
        return
    stages = list(next(iter(made.values())).stages)
    columns = ("particles", "box", "iterations", "to Å", *stages, "CPU s", "MB at start", "MB")
    rows = [
        [
            str(size.n_particles),
            str(size.box_px),
            str(found.iterations),
            f"{found.resolution_angst:.2f}",
            *(f"{found.stages[stage]:.1f}" for stage in stages),
            f"{found.cpu_s:.1f}",
            f"{found.start_mb:.0f}",
            f"{found.peak_mb:.0f}",
        ]
        for size, found in made.items()
    ]
    print_table("", columns, rows, right=columns)
    cells = [[fit.of, fit.stage, f"{fit.exponent:.2f}", f"{fit.expected:g}"] for fit in fits]
    growths = ("grows with", "stage", "exponent", "expected at most")
    print_table("", growths, cells, right=growths[2:])


@app.command("preprocess")
def run_preprocess(
    data: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="Movies with truth: mov1.mrc, mov1_clean.mrc, truth_mov1.npz, ...",
            show_default=False,
        ),
    ],
    diameter_angst: Annotated[
        float, typer.Option(metavar="Å", min=10.0, help="Of the particles in the movies.")
    ],
    project_path: Annotated[
        Path,
        typer.Option("--project", "-p", metavar="FOLDER", help="Made if it is not there."),
    ] = Path("bench-preprocess"),
    limit_s: Annotated[
        float, typer.Option("--limit-s", min=1.0, metavar="S", help="End a job after so long.")
    ] = 3600.0,
    as_json: AsJson = False,
) -> None:
    """Time motion, CTF, picking and extraction, and compare with the truth.

    Processor time is that of one movie or micrograph on one thread.
    """
    from verglas.api.bench_preprocess_table import bench_preprocess
    from verglas.cli.process import open_or_make

    rows = []
    with open_or_make(project_path) as project:
        for row in bench_preprocess(project, data, diameter_angst=diameter_angst, limit_s=limit_s):
            rows.append(row)
            err().print(f"{row.job}: {row.cpu_s:.3g} CPU s, {row.reached}", markup=False)
    if as_json:
        print_json([dataclasses.asdict(row) for row in rows])
        return
    cells = [[r.job, f"{r.cpu_s:.3g}", r.reached, r.wanted, r.peer] for r in rows]
    columns = ("job", "CPU s", "reached", "wanted", "peer, as published")
    print_table("", columns, cells, right=("CPU s",))


def _peer_text(peer: "Peer | None") -> str:
    if peer is None:
        return "no RELION on the search path"
    return f"RELION in {peer.folder}: {peer.version}"


def _cells(result: "Result") -> list[Any]:
    case, cost = result.case, result.cost
    reached = result.error or ", ".join(
        f"{name.replace('_', ' ')} {value:.3g}" for name, value in result.numbers.items()
    )
    numbers = (
        [f"{cost.cpu_s:.1f}", f"{cost.wall_s:.1f}", f"{cost.peak_mb:.0f}"] if cost else 3 * [""]
    )
    here = f"{result.peer_cost.cpu_s:.1f} CPU s" if result.peer_cost else ""
    return [case.name, *numbers, reached, case.wanted, case.peer, here]


def _as_json(results: "list[Result]", peer: "Peer | None", rates: Any) -> dict[str, Any]:
    return {
        "peer": None if peer is None else {"folder": str(peer.folder), "version": peer.version},
        "throughput": dataclasses.asdict(rates) | {"fraction": rates.fraction},
        "jobs": [
            {
                "name": result.case.name,
                "stack": result.case.stack,
                "protocol": result.case.protocol,
                "cost": dataclasses.asdict(result.cost) if result.cost else None,
                "numbers": result.numbers,
                "error": result.error,
                "wanted": result.case.wanted,
                "peer": result.case.peer,
                "peer_cost": dataclasses.asdict(result.peer_cost) if result.peer_cost else None,
            }
            for result in results
        ],
    }
