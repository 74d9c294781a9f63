"""Arithmetic with numbers too small for fast arithmetic."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["denormals_flushed"]


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Take numbers below the normal range for zero while the block runs, in this thread.

    Likelihoods fade into such numbers, and products with them take twice as long.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
