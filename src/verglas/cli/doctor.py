"""The command that checks whether this machine is fit for work."""

from typing import Annotated

import typer

from verglas.cli._console import out, print_json
from verglas.cli._failures import FAILED
from verglas.cli._options import AsJson

__all__ = ["run_doctor"]

_MARKS = {"good": ("ok", "green"), "doubtful": ("!!", "yellow"), "bad": ("no", "bold red")}


def run_doctor(
    is_quick: Annotated[
        bool, typer.Option("--quick", help="Do not load torch and numba, nor compile.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check Python, packages, threads, GPU, memory, disk and write access."""
    from verglas.api.doctor import examine

    findings = examine(is_quick=is_quick)
    if as_json:
        print_json([vars_of(finding) for finding in findings])
    else:
        for finding in findings:
            mark, style = _MARKS[finding.state]
            out().print(f"{mark} ", style=style, end="", markup=False)
            out().print(f"{finding.what:<14} {finding.text}", markup=False, soft_wrap=True)
            if finding.hint:
                hint = f"   {'':<14} {finding.hint}"
                out().print(hint, style="dim", markup=False, soft_wrap=True)
    if any(finding.state == "bad" for finding in findings):
        raise typer.Exit(FAILED)


def vars_of(finding: object) -> dict[str, str]:
    """Turn a finding into plain values."""
    import dataclasses

    return dataclasses.asdict(finding)  # type: ignore[call-overload, no-any-return]
