"""Weights of the picking network as safetensors files, with what belongs to them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from verglas.algorithms.picking.network.model import PARTICLE_PX, PickNetwork
from verglas.core.files import atomic_path

__all__ = ["DEFAULT_WEIGHTS", "Calibration", "Picker", "load_picker", "save_picker"]

DEFAULT_WEIGHTS = Path(__file__).parents[1] / "weights" / "pick_network.safetensors"
_FORMAT = "verglas-pick-network-1"


@dataclass(frozen=True)
class Calibration:
    """Line from the height of a peak to the log odds that a particle is there.

    Attributes:
        slope, intercept: of the line.
    """

    slope: float = 1.0
    intercept: float = 0.0


@dataclass(frozen=True)
class Picker:
    """A network ready for use.

    Attributes:
        network: with its weights, in evaluation mode.
        calibration: of its peaks.
        notes: what else the file says, as how it was trained.
    """

    network: PickNetwork
    calibration: Calibration = Calibration()
    notes: Mapping[str, str] = field(default_factory=dict)


def save_picker(path: Path, picker: Picker) -> None:
    """Write weights, calibration and notes.

    Args:
        path: of the file to make.
        picker: what to write.
    """
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in picker.network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    notes = dict(picker.notes)
    notes |= {
        "format": _FORMAT,
        "particle_px": str(PARTICLE_PX),
        "calibration_slope": repr(picker.calibration.slope),
        "calibration_intercept": repr(picker.calibration.intercept),
    }
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(tensors, metadata=notes))


def load_picker(path: Path | None = None, *, device: str = "cpu") -> Picker:
    """Read a network.

    Args:
        path: of a file written by `save_picker`; None for the one trained on simulations only.
        device: where the network works.

    Raises:
        ValueError: the file is not of a picking network of this version.
    """
    path = path or DEFAULT_WEIGHTS
    try:
        with safe_open(path, framework="pt") as file:
            notes = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, FileNotFoundError) as error:
        raise ValueError(f"{str(path)!r} is not a file of weights: {error}") from error
    if notes.get("format") != _FORMAT:
        raise ValueError(
            f"{str(path)!r} holds no picking network: got format {notes.get('format')!r}, "
            f"expected {_FORMAT!r}"
        )
    network = PickNetwork()
    expected = network.state_dict()
    missing = [
        name
        for name, tensor in expected.items()
        if not name.endswith("num_batches_tracked")
        and (name not in tensors or tensors[name].shape != tensor.shape)
    ]
    if missing or any(not bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise ValueError(
            f"{str(path)!r} holds other weights than the picking network's: {missing[:3]}"
        )
    network.load_state_dict(tensors, strict=False)
    calibration = Calibration(
        float(notes.pop("calibration_slope", "1")), float(notes.pop("calibration_intercept", "0"))
    )
    return Picker(network.eval().to(device), calibration, notes)
