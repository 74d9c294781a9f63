"""Which loops a kernel may use on a GPU: Triton's, where it is installed, or plain torch."""

from functools import cache
from importlib.util import find_spec

from torch import Tensor

__all__ = ["is_fused", "triton_is_installed"]


@cache
def triton_is_installed() -> bool:
    """Say whether Triton is there; it comes with torch for CUDA."""
    return find_spec("triton") is not None


def is_fused(operand: Tensor) -> bool:
    """Say whether Triton's loops serve an operand: on a GPU, and without autograd."""
    return operand.device.type == "cuda" and not operand.requires_grad and triton_is_installed()
