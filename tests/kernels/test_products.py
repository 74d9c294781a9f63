import pytest
import torch

from verglas.kernels.products import coarse_products


def test_products_are_coarse_inside_only_and_after_an_error_too():
    before = torch.backends.cuda.matmul.allow_tf32
    with coarse_products():
        assert torch.backends.cuda.matmul.allow_tf32
    with pytest.raises(KeyError), coarse_products():
        raise KeyError
    assert torch.backends.cuda.matmul.allow_tf32 == before
