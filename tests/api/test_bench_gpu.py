"""The job for a GPU runs on a machine without one, on a tiny stack."""

from dataclasses import replace

import pytest

from verglas.api.bench_cases import GPU_AGREEMENT_CASE, GPU_CASE, STACKS
from verglas.api.bench_gpu import run_gpu
from verglas.api.project import Project
from verglas.engine.placement import Placement

TINY = {"diameter_angst": 130.0, "symmetry": "O", "initial_low_pass_angst": 40.0} | {
    "max_iterations": 1,
    "n_audited": 0,
}


def test_the_large_job_is_the_one_that_is_asked_for():
    stack = STACKS[GPU_CASE.stack]
    assert (stack.n_particles, stack.box_px) == (100_000, 128)
    assert GPU_CASE.params["initial_low_pass_angst"] == 60.0
    assert "symmetry" not in GPU_CASE.params
    assert GPU_AGREEMENT_CASE.params == GPU_CASE.params


@pytest.mark.slow
def test_maps_of_the_job_with_and_without_a_gpu_are_compared(tmp_path):
    # three commands on 60 images of 24 px of 8 Å; each starts an interpreter
    small = replace(GPU_AGREEMENT_CASE, stack="tiny", params=TINY, symmetry="O")
    large = replace(GPU_CASE, stack="tiny", params=TINY, symmetry="O")
    heard = []
    with Project.create(tmp_path / "p", placement=Placement(where="in_process")) as project:
        results = list(run_gpu(project, large=large, small=small, workers=0, tell=heard.append))
    assert [result.error for result in results] == ["", "", ""]
    names = [result.case.name for result in results]
    assert names == [f"{small.name}-hidden", small.name, large.name]
    # without a GPU both ran on the processor
    assert results[1].numbers["fsc_with_hidden_gpu"] > 0.9999
    assert results[1].numbers["resolution_apart_angst"] < 1e-6
    assert results[2].cost.cpu_s > 0
    assert sum(text.startswith("running") for text in heard) == 3
