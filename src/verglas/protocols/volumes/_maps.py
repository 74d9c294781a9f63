"""Maps and curves as the volume protocols read and write them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from verglas.sdk import Task

if TYPE_CHECKING:
    from torch import Tensor

    from verglas.algorithms.map_fsc import MaskedFsc

__all__ = ["CORRELATION", "curve_row", "finite", "fsc_rows", "load_map", "seeded", "write_map"]

CORRELATION = "Fourier shell correlation"


def load_map(task: Task, text: str) -> Tensor:
    """Read a map as stored in a table onto the chunk's device."""
    import torch

    from verglas.io.mrc import read_mrc

    return torch.from_numpy(read_mrc(task.path(text))[0]).to(task.device)


def write_map(
    task: Task,
    name: str,
    volume: Tensor,
    pixel_size_angst: float,
    *,
    origin_angst: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> str:
    """Write a map among the chunk's files and give its path as stored in tables."""
    from verglas.io.mrc import write_mrc

    path = task.files / name
    values = volume.float().cpu().numpy()
    write_mrc(path, values, pixel_size_angst, is_stack=False, origin_angst=origin_angst)
    return task.relative(path)


def seeded(task: Task) -> Any:
    """Make a torch generator that follows from the chunk's key and the job's seed."""
    import torch

    return torch.Generator().manual_seed(int(task.rng.integers(2**62)))


def finite(value: float) -> float | None:
    """Give a number, or None in place of infinity: a resolution that there is not."""
    return value if value < float("inf") else None


def curve_row(
    source_id: int, label: str, x_per_angst: Iterable[Any], y: Iterable[Any], *, y_label: str
) -> dict[str, Any]:
    """Make a row of a set of curves."""
    return {
        "source_id": source_id,
        "label": label,
        "x_per_angst": [float(value) for value in x_per_angst],
        "y": [float(value) for value in y],
        "x_label": "Spatial frequency (1/Å)",
        "y_label": y_label,
    }


def fsc_rows(source_id: int, fsc: MaskedFsc, *, prefix: str = "") -> list[dict[str, Any]]:
    """Make the rows of the four curves of one comparison."""
    named = {
        "unmasked": fsc.unmasked,
        "masked": fsc.masked,
        "random phases": fsc.randomised,
        "corrected": fsc.corrected,
    }
    return [
        curve_row(source_id, prefix + label, fsc.frequencies_per_angst, y, y_label=CORRELATION)
        for label, y in named.items()
    ]
