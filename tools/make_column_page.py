"""Write docs/columns.md from the declarations: `python tools/make_column_page.py [--check]`."""

import sys
from collections.abc import Iterator
from pathlib import Path

from verglas.model import COLUMNS, KINDS, TRAITS, Column

PAGE = Path(__file__).resolve().parent.parent / "docs" / "columns.md"


def range_text(column: Column) -> str:
    low = "" if column.low is None else f"{column.low:g}"
    high = "" if column.high is None else f"{column.high:g}"
    return f"{low} to {high}".strip() if high else (f">= {low}" if low else "")


def lines() -> Iterator[str]:
    yield "# Columns, traits and kinds"
    yield ""
    yield "Made by `tools/make_column_page.py` from `verglas.model`; do not edit."
    yield ""
    yield "## Kinds"
    yield ""
    yield "| kind | a row is | always has | may have |"
    yield "|---|---|---|---|"
    for kind in KINDS.values():
        yield (
            f"| `{kind.id}` | {kind.meaning} | {', '.join(kind.required)} "
            f"| {', '.join(kind.optional)} |"
        )
    yield ""
    yield "## Traits"
    yield ""
    yield "| trait | meaning | columns | made by |"
    yield "|---|---|---|---|"
    for trait in TRAITS.values():
        columns = " ".join(f"`{name}`" for name in trait.columns)
        makers = " ".join(f"`{maker}`" for maker in trait.made_by)
        yield f"| {trait.name} | {trait.meaning} | {columns} | {makers} |"
    yield ""
    yield "## Columns"
    yield ""
    yield "| column | type | unit | range | meaning | RELION | cryoSPARC |"
    yield "|---|---|---|---|---|---|---|"
    for column in COLUMNS.values():
        yield (
            f"| `{column.name}` | {column.dtype} | {column.unit} | {range_text(column)} "
            f"| {column.meaning} | {column.relion} | {column.cryosparc} |"
        )


def main() -> int:
    text = "\n".join(lines()) + "\n"
    if "--check" in sys.argv:
        if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
            print(f"{PAGE.name} is out of date: run python tools/make_column_page.py")
            return 1
        return 0
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
