"""Open the network that a picking protocol uses or starts from."""

from typing import TYPE_CHECKING

from verglas.core.errors import FormatError, UserError
from verglas.model import DataSet
from verglas.sdk import Context, Task

if TYPE_CHECKING:
    from verglas.algorithms.picking.network.weights import Picker

__all__ = ["open_picker", "weights_of"]

_DIAMETER_TOLERANCE = 1.2


def weights_of(ctx: Context, model: DataSet | None, diameter_angst: float) -> str:
    """Find the file of weights of a model, as tables hold its path; empty without a model.

    Args:
        ctx: of the job; it warns of another diameter.
        model: of one row, or None for the general network.
        diameter_angst: of the particle.
    """
    if model is None:
        return ""
    rows = model.rows()
    if rows.height != 1:
        raise UserError(
            f"{model.name} holds {rows.height} networks: one is needed",
            "choose one row with sets.filter",
        )
    row = rows.row(0, named=True)
    trained = row.get("diameter_angst")
    ratio = diameter_angst / trained if trained else 1.0
    if max(ratio, 1 / ratio) > _DIAMETER_TOLERANCE:
        ctx.warn(
            f"the network was trained for a diameter of {trained:g} Å, "
            f"diameter_angst is {diameter_angst:g} Å"
        )
    return str(row["weights_path"])


def open_picker(task: Task, weights: str) -> "Picker":
    """Load a network in a chunk.

    Args:
        task: of the chunk.
        weights: path as tables hold it; empty for the general network.
    """
    from verglas.algorithms.picking.network.weights import load_picker

    try:
        return load_picker(task.path(weights) if weights else None, device=task.device)
    except ValueError as error:
        raise FormatError(str(error), "train the model again, or run without one") from error
