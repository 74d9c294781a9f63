"""Checkpoint the state of an iterative protocol after each iteration.

A state is a dictionary of arrays and plain values. It is stored as a bundle, so no pickle
is read back, and a crash between two iterations loses nothing.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from verglas.core.errors import FormatError
from verglas.core.ids import content_digest
from verglas.sdk.arrays import Bundle, arrays_digest, read_bundle, write_bundle

__all__ = ["State", "checkpoint_folder", "load_last_state", "save_state"]

State = dict[str, npt.NDArray[Any] | int | float | str | bool]
"""What an iteration hands to the next."""

_WHOLE = "[0-9]*.zip"  # a file cut by a crash begins with a dot
_KEPT = 2  # the last, and the one before it should the last be damaged


def checkpoint_folder(folder: Path, *, name: str, identity: str, state: State) -> Path:
    """Name the folder of the checkpoints of one call of `ctx.iterate`.

    Args:
        folder: of the checkpoints of the job, or of an iteration of an outer loop.
        name: of the call within it.
        identity: of the job; checkpoints of a job that differs in it are not taken up.
        state: first state; checkpoints of another beginning are not taken up.
    """
    arrays, values = _split(state)
    parts = (identity, arrays_digest(arrays), repr(sorted(values.items())))
    return folder / f"{name}-{content_digest(part.encode() for part in parts)[:8]}"


def save_state(folder: Path, iteration: int, state: State) -> None:
    """Store a state and remove all but the one before it.

    Args:
        folder: of the checkpoints.
        iteration: how many are finished.
        state: after them.
    """
    arrays, values = _split(state)
    write_bundle(_path(folder, iteration), Bundle(arrays, None, {"values": values}))
    for path in sorted(folder.glob(_WHOLE))[:-_KEPT]:
        path.unlink()


def load_last_state(folder: Path) -> tuple[int, State] | None:
    """Load the last whole checkpoint: finished iterations and state, or None."""
    for path in sorted(folder.glob(_WHOLE), reverse=True):
        try:
            bundle = read_bundle(path)
        except FormatError:
            continue  # damaged: the one before it is as good, at the price of an iteration
        return int(path.stem), {**bundle.arrays, **bundle.note["values"]}
    return None


def _path(folder: Path, iteration: int) -> Path:
    return folder / f"{iteration:06d}.zip"


def _split(state: State) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    arrays = {name: value for name, value in state.items() if isinstance(value, np.ndarray)}
    values: dict[str, Any] = {}
    for name, value in state.items():
        if name in arrays:
            continue
        plain = value.item() if isinstance(value, np.generic) else value
        if not isinstance(plain, bool | int | float | str):
            raise TypeError(
                f"a state holds arrays, numbers, strings and booleans: got {name!r} "
                f"of {type(value).__name__}"
            )
        values[name] = plain
    return arrays, values
