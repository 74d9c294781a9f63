"""Work through many items in blocks that fit into memory.

A block's size comes from a model of what an item takes. Where the model was too small the
block is halved and tried again, so that a run on a full machine gets slower, not lost.
"""

import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from verglas.core.units import BYTES_PER_GB

__all__ = ["block_size", "blocks_that_fit", "budget_gb", "is_out_of_memory"]

log = logging.getLogger(__name__)

T = TypeVar("T")

_SHARE = 0.1  # of what is free on a GPU; several blocks and their temporaries live at once
_ALLOCATOR_WORDS = ("not enough memory", "can't allocate memory", "out of memory")


def budget_gb(on_processor_gb: float, device: torch.device) -> float:
    """Return the memory for a block: as given, or on a GPU, which wants large ones, a tenth.

    Args:
        on_processor_gb: for a processor, whose caches and neighbours want small blocks.
        device: where the block is worked on.
    """
    if device.type == "cpu":
        return on_processor_gb
    free, _ = torch.cuda.mem_get_info(device)
    return max(on_processor_gb, _SHARE * free / BYTES_PER_GB)


def block_size(item_bytes: int, *, budget_gb: float, most: int) -> int:
    """Return how many items a block may hold: at least one, at most `most`.

    Args:
        item_bytes: what one item takes while it is worked on.
        budget_gb: memory for the block.
        most: beyond this nothing is gained.
    """
    return max(1, min(most, int(budget_gb * BYTES_PER_GB / max(1, item_bytes))))


def blocks_that_fit(
    n_items: int, size: int, prepare: Callable[[slice], T]
) -> Iterator[tuple[slice, T]]:
    """Prepare one block of items after another, in order; halve the block when memory is short.

    What is added up over blocks belongs after the `yield`: only `prepare` is tried again.

    Args:
        n_items: how many there are.
        size: items in a block, at first.
        prepare: makes of a block what takes the memory; no effects besides.

    Yields:
        Each block and what `prepare` made of it.

    Raises:
        MemoryError: a single item does not fit.
    """
    start = 0
    while start < n_items:
        block = slice(start, min(n_items, start + size))
        try:
            made = prepare(block)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            size = (block.stop - block.start) // 2
            if size == 0:
                raise MemoryError(
                    f"one item of {n_items} needs more memory than there is: {error}; use smaller "
                    "boxes, a lower resolution limit or a coarser grid, or fewer worker processes"
                ) from error
            log.warning("memory is short: going on with blocks of %d items", size)
            continue
        yield block, made
        start = block.stop


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an allocation failed, on the processor or on an accelerator."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # torch's allocator on the processor has no error type of its own
    return isinstance(error, RuntimeError) and any(w in str(error) for w in _ALLOCATOR_WORDS)
