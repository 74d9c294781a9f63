"""The command that shows a job or a data set."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from verglas.cli._console import out, print_json, print_table
from verglas.cli._options import AsJson, ProjectFolder, open_project
from verglas.cli._records import record_json
from verglas.cli._words import duration_text, number_text, value_text
from verglas.core.units import unit_of
from verglas.viewers.words import count_text

if TYPE_CHECKING:
    from verglas.api.job import Job
    from verglas.api.project import Project
    from verglas.model import DataSet

__all__ = ["show_thing"]

_MOST_COLUMNS = 8
_WIDEST_CELL = 26


def show_thing(
    ref: Annotated[
        str, typer.Argument(metavar="JOB|DATASET", help="As j12, d41 or j12.particles.")
    ],
    project_path: ProjectFolder = None,
    n_rows: Annotated[int, typer.Option("--rows", min=0, help="Rows of the table.")] = 5,
    columns: Annotated[str, typer.Option(help="Only these columns, joined by commas.")] = "",
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="FILTER", help="Only rows that pass, as 'fit_res_angst < 5'."),
    ] = None,
    sort: Annotated[str, typer.Option(metavar="COLUMN", help="Sort by a column.")] = "",
    is_descending: Annotated[bool, typer.Option("--descending", help="Largest first.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a job, or the table of a data set with units and ranges."""
    with open_project(project_path) as project:
        if not _names_dataset(ref):
            _show_job(project, project.job(ref), as_json=as_json)
            return
        from verglas.api.query import query_page

        data = project.dataset(ref)
        names = [name.strip() for name in columns.split(",") if name.strip()]
        page = query_page(
            data,
            columns=names or None,
            where=where or (),
            sort=sort,
            is_descending=is_descending,
            limit=n_rows,
        )
        if as_json:
            described = _dataset_json(project, data)
            print_json({**described, "n_shown_of": page.total, "rows": page.rows})
            return
        _print_dataset(project, data)
        title = f"first {len(page.rows)} of {page.total} rows" if page.rows else "no rows"
        _print_rows(f"\n{title}", page.columns, page.rows)


def _names_dataset(ref: str) -> bool:
    return ref.strip().lower().startswith("d") or "." in ref


def _print_rows(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    *,
    key: str = "item_id",
) -> None:
    """Write rows; where they have many columns, each row goes down the page."""
    if len(columns) <= _MOST_COLUMNS or not 1 <= len(rows) <= _MOST_COLUMNS:
        cells = [[_cell(row[name]) for name in columns] for row in rows]
        print_table(title, columns, cells)
        return
    word = key.removesuffix("_id").replace("_", " ")
    heads = [f"{word} {row[key]}" if key in row else "" for row in rows]
    lines = [[name, *(_cell(row[name]) for row in rows)] for name in columns if name != key]
    print_table(title, ["", *heads], lines)


def _cell(value: Any) -> str:
    """Write a value in few letters: of a list the length, of a path the end."""
    if isinstance(value, list):
        return f"{len(value)} values"
    text = value if isinstance(value, str) else value_text(value)
    return text if len(text) <= _WIDEST_CELL else f"…{text[1 - _WIDEST_CELL :]}"


def _show_job(project: "Project", job: "Job", *, as_json: bool) -> None:
    record, stale = job.record, job.stale
    if as_json:
        steps = [step.model_dump(mode="json") for step in record.steps]
        notes = [note.model_dump(mode="json") for note in record.notes]
        print_json(
            {
                **record_json(record, stale=bool(stale)),
                "steps": steps,
                "notes": notes,
                "environment": record.environment,
            }
        )
        return
    facts = {
        "protocol": f"{record.protocol} version {record.version}",
        "label": record.label,
        "status": str(record.status) + (", deleted" if record.deleted else ""),
        "out of date": "; ".join(reason.text for reason in stale),
        "error": record.error,
        "started": record.started,
        "time": duration_text(record.seconds) if record.seconds else "",
        "folder": str(job.folder),
        "seed": str(record.seed),
    }
    out().print(f"{record.id} of {project.name}", style="bold", markup=False)
    for name, value in facts.items():
        if value:
            out().print(f"  {name:<12} {value}", markup=False, soft_wrap=True)
    for text in record.warnings:
        out().print(f"  warning      {text}", style="yellow", markup=False, soft_wrap=True)
    links: list[list[Any]] = [
        ["in", link.port, f"d{link.dataset}", "", ""] for link in record.inputs
    ]
    links += [["out", o.port, o.id, o.n_items, o.kind] for o in record.outputs]
    if links:
        print_table("\ndata", ("", "port", "data set", "items", "kind"), links, right=("items",))
    if record.metrics:
        rows = [[name, value_text(v), _unit(name)] for name, v in record.metrics.items()]
        print_table("\nkey numbers", ("number", "value", "unit"), rows, right=("value",))
    params = [
        [name, value_text(value), _unit(name), "changed" if name in record.changed else ""]
        for name, value in record.parameters.items()
    ]
    if params:
        print_table("\nparameters", ("parameter", "value", "unit", ""), params)


def _print_dataset(project: "Project", data: "DataSet") -> None:
    info = project.store.dataset(int(data.id[1:]))
    made_by = project.job(info.job)
    out().print(
        f"{data.id}: {count_text(data.n_items, data.kind.id)} from port {info.port!r} of "
        f"{made_by.id} ({made_by.protocol})",
        style="bold",
        markup=False,
    )
    out().print(f"  traits  {', '.join(sorted(data.traits)) or 'none'}", markup=False)
    out().print(f"  folder  {project.root / info.folder}", markup=False, soft_wrap=True)
    rows = [
        [c["name"], c["unit"], *(_range_cell(c[k]) for k in ("low", "mean", "high")), c["meaning"]]
        for c in _columns_json(data)
    ]
    columns = ("column", "unit", "low", "mean", "high", "meaning")
    print_table("\ncolumns", columns, rows, right=("low", "mean", "high"))
    if data.optics.height:
        groups = data.optics.rows(named=True)
        _print_rows("\noptics groups", data.optics.columns, groups, key="optics_group")


def _dataset_json(project: "Project", data: "DataSet") -> dict[str, Any]:
    info = project.store.dataset(int(data.id[1:]))
    return {
        "id": data.id,
        "kind": data.kind.id,
        "n_items": data.n_items,
        "job": f"j{info.job}",
        "port": info.port,
        "traits": sorted(data.traits),
        "folder": str(project.root / info.folder),
        "columns": _columns_json(data),
        "optics": data.optics.to_dicts(),
    }


def _columns_json(data: "DataSet") -> list[dict[str, Any]]:
    from verglas.api.query import describe_columns
    from verglas.model import COLUMNS

    ranges = {row["column"]: row for row in describe_columns(data).to_dicts()}
    found = []
    for name in data.columns:
        declared = COLUMNS.get(name)
        numbers = ranges.get(name, {})
        found.append(
            {
                "name": name,
                "unit": _unit(name),
                "meaning": declared.meaning if declared else "Kept from an import.",
                **{key: numbers.get(key) for key in ("low", "mean", "high", "n_missing")},
            }
        )
    return found


def _unit(name: str) -> str:
    unit = unit_of(name)
    return unit.symbol if unit else ""


def _range_cell(value: float | None) -> str:
    return "" if value is None else number_text(value)
