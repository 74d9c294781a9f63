import pytest
import torch

from verglas.algorithms.batching import block_size, blocks_that_fit, is_out_of_memory


def test_blocks_follow_the_budget():
    assert block_size(2**20, budget_gb=0.5, most=1000) == 512
    assert block_size(2**20, budget_gb=0.5, most=100) == 100
    assert block_size(2**40, budget_gb=0.5, most=100) == 1


def test_every_item_comes_once_and_in_order_when_memory_is_short():
    tried = []

    def prepare(block):
        tried.append(block.stop - block.start)
        if tried[-1] > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return list(range(block.start, block.stop))

    made = [item for _, items in blocks_that_fit(20, 16, prepare) for item in items]
    assert made == list(range(20))
    assert tried[:4] == [16, 8, 4, 2]


def test_an_item_that_never_fits_is_said_with_advice():
    def prepare(block):
        raise MemoryError

    with pytest.raises(MemoryError, match="fewer worker processes"):
        next(blocks_that_fit(4, 4, prepare))


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    def prepare(block):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        next(blocks_that_fit(4, 4, prepare))


def test_an_allocation_that_torch_cannot_make_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_out_of_memory(caught.value)
