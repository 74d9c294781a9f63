"""Small numbers are flushed inside the block only."""

import pytest
import torch

from verglas.kernels.denormals import denormals_flushed


def smallest():
    return float(torch.tensor([1e-30]) * torch.tensor([1e-10]))


def test_small_numbers_vanish_in_the_block_and_nowhere_else():
    assert smallest() > 0
    with denormals_flushed():
        assert smallest() == 0
    assert smallest() > 0


def test_an_error_in_the_block_leaves_arithmetic_as_it_was():
    with pytest.raises(RuntimeError, match="broken"), denormals_flushed():
        raise RuntimeError("broken")
    assert smallest() > 0
