"""What a machine offers to workers."""

import torch

from verglas.engine.slots import usable_gpus, visible_gpus


def test_gpus_are_used_only_by_a_torch_that_can(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert visible_gpus() == [0, 1]
    # what torch was built for is told here by torch itself, there by its files
    built = torch.version.cuda is not None or torch.version.hip is not None
    assert usable_gpus() == ([0, 1] if built else [])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert usable_gpus() == []
