"""Check shapes and ranges at borders, with one wording for every message.

The functions look only at `shape` and compare numbers, so they serve numpy and torch
alike and import neither. They raise `ValueError`; inside, code trusts its callers.
"""

from collections.abc import Sequence
from math import isfinite
from typing import Protocol

__all__ = ["HasShape", "check_cubic", "check_ndim", "check_range", "check_same_shape"]


class HasShape(Protocol):
    """Anything with a shape: a numpy array, a torch tensor, a memory map."""

    @property
    def shape(self) -> Sequence[int]: ...  # noqa: D102


def check_ndim(name: str, array: HasShape, ndim: int) -> None:
    """Raise unless an array has a number of dimensions.

    Args:
        name: of the argument, for the message.
        array: what was given.
        ndim: wanted, counting the batch.
    """
    if len(array.shape) != ndim:
        raise ValueError(f"{name} must have {ndim} dimensions: got shape {tuple(array.shape)}")


def check_cubic(name: str, array: HasShape, *, n_axes: int) -> None:
    """Raise unless the last axes of an array are equally long.

    Args:
        name: of the argument, for the message.
        array: what was given.
        n_axes: 2 asks for a square, 3 for a cube.
    """
    shape = tuple(array.shape)
    if len(shape) < n_axes or len(set(shape[-n_axes:])) != 1:
        word = "square" if n_axes == 2 else "cubic"
        raise ValueError(f"{name} must be {word}: got shape {shape}")


def check_same_shape(name: str, array: HasShape, other_name: str, other: HasShape) -> None:
    """Raise unless two arrays have the same shape.

    Args:
        name: of the first argument.
        array: the first argument.
        other_name: of the second argument.
        other: the second argument.
    """
    if tuple(array.shape) != tuple(other.shape):
        raise ValueError(
            f"{name} and {other_name} must have the same shape: "
            f"got {tuple(array.shape)} and {tuple(other.shape)}"
        )


def check_range(
    name: str,
    value: float,
    *,
    gt: float | None = None,
    ge: float | None = None,
    lt: float | None = None,
    le: float | None = None,
) -> None:
    """Raise unless a number is finite and within its bounds.

    Args:
        name: of the argument, with its unit suffix.
        value: what was given.
        gt, ge, lt, le: bounds; None leaves the side open.
    """
    bounds = ((">", gt), (">=", ge), ("<", lt), ("<=", le))
    wanted = " and ".join(f"{sign} {bound!r}" for sign, bound in bounds if bound is not None)
    is_inside = (
        isfinite(value)
        and (gt is None or value > gt)
        and (ge is None or value >= ge)
        and (lt is None or value < lt)
        and (le is None or value <= le)
    )
    if not is_inside:
        raise ValueError(f"{name} must be {wanted or 'finite'}: got {value!r}")
