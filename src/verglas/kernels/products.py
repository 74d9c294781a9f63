"""Matrix products that need not be exact to the last digit of float32."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["coarse_products"]


@contextmanager
def coarse_products() -> Iterator[None]:
    """Let a GPU round the factors of float32 products to 11 bits (TF32), and add in float32.

    For scores that only choose where to look more closely: a sum of thousands of terms of random
    sign keeps 5e-4 of its own size. A processor computes as ever.
    """
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
