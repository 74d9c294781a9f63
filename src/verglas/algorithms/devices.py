"""Move what a step works with to the device that it works on.

The likelihood engine has one code for processor and GPU: whatever it makes, it makes where
its operands are. So a caller only has to bring those there, and to fetch the results.
"""

from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["to_device"]

T = TypeVar("T")


def to_device(value: T, device: torch.device | str) -> T:
    """Return a copy of a tensor, or of a dataclass and all tensors in it, on a device.

    Args:
        value: a tensor, a dataclass, a tuple of them, or anything else, which stays as it is.
        device: `cpu` or `cuda:<number>`; what is there already is not copied.
    """
    moved: Any = value
    if isinstance(value, Tensor):
        moved = value.to(device)
    elif isinstance(value, tuple):
        moved = tuple(to_device(item, device) for item in value)
    elif is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in fields(value)}
        moved = replace(value, **{name: to_device(part, device) for name, part in parts.items()})
    result: T = moved
    return result
