"""Sentences for the Methods paragraph: set operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from verglas.viewers.words import count_text

if TYPE_CHECKING:
    from verglas.viewers.methods import MethodStep

__all__ = ["SET_SENTENCES"]


def _kind(step: MethodStep) -> str:
    return next((kind for kind, _ in step.items_in.values()), "items")


def _made(step: MethodStep, port: str) -> str:
    n = step.n_out(port)
    return count_text(n, _kind(step)) if n is not None else _kind(step).capitalize()


def _union(step: MethodStep) -> str:
    return f"Sets of {_kind(step)} were put together, {_made(step, 'union')} in all."


def _intersect(step: MethodStep) -> str:
    return f"{_made(step, 'intersection')} that all sets have in common were kept."


def _subtract(step: MethodStep) -> str:
    return f"{_made(step, 'difference')} that the other sets do not have were kept."


def _split(step: MethodStep) -> str:
    n_parts = step.numbers.get("n_parts")
    by = step.get("by_column")
    how = f" by {by}" if by else " in order" if step.get("in_order") else " at random"
    return f"The {_kind(step)} were split{how}{f' into {n_parts:g} parts' if n_parts else ''}."


def _filter(step: MethodStep) -> str:
    kept, left = step.n_out("accepted"), step.n_out("rejected")
    of_all = f" of {kept + left}" if kept is not None and left is not None else ""
    count = f"{kept}{of_all} {_kind(step)}" if kept is not None else _kind(step).capitalize()
    return f"{count}{step.text(' with {}', 'condition')} were kept."


def _join(step: MethodStep) -> str:
    columns = ", ".join(step.get("columns") or ())
    return f"Values of {columns or 'another set'} were taken over from another set."


SET_SENTENCES: dict[str, Callable[[MethodStep], str]] = {
    "sets.union": _union,
    "sets.intersect": _intersect,
    "sets.subtract": _subtract,
    "sets.split": _split,
    "sets.filter": _filter,
    "sets.join": _join,
}
"""What is said of each protocol."""
