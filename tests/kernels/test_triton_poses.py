"""The loops for a GPU: on one, in Triton's interpreter, and compiled for GPUs that are not there.

`pytest -m tool` compiles them; `TRITON_INTERPRET=1 pytest -m tool` runs them without a GPU.
"""

import os

import pytest
import torch

from tests.tolerance import assert_close_to_peak
from verglas.kernels.disc import half_disc
from verglas.kernels.pose_likelihood import insert_at_poses, pose_normals, pose_scores
from verglas.kernels.slices import extract_slices, half_volume_size
from verglas.kernels.so3 import random_rotations

triton = pytest.importorskip("triton")

BOX, RADIUS, PADDING = 24, 9, 2
N_VIEWS, N_POSES = 4, 3
FREQUENCIES = half_disc(BOX, RADIUS).frequencies_px
# single precision over 129 coefficients, added up in another order
SUM32 = 1e-5

_FLOATS, _DOUBLES = "*fp32", "*fp64"
_GRID = {"row": "i32", "plane": "i32", "centre": "fp32", "padding": "fp32"}
_VIEWS = {
    "signal": _FLOATS,
    "weight": _FLOATS,
    "rotations": _FLOATS,
    "shifts": _DOUBLES,
    "frequencies": _FLOATS,
}
SIGNATURES = {
    "extract": {"volume": _FLOATS, "rotations": _FLOATS, "frequencies": _FLOATS, "out": _FLOATS}
    | {"n_k": "i32"},
    "scores": {"volume": _FLOATS} | _VIEWS
    | {"out": _DOUBLES, "n_poses": "i32", "n_k": "i32", "box": "fp32"},
    "normals": {"volume": _FLOATS} | _VIEWS | {"out": _DOUBLES, "n_k": "i32", "box": "fp32"},
    "insert": {
        "signal": _FLOATS,
        "weight": _FLOATS,
        "rotations": _FLOATS,
        "shifts": _DOUBLES,
        "probability": _FLOATS,
        "frequencies": _FLOATS,
        "numerator": _FLOATS,
        "denominator": _FLOATS,
        "n_poses": "i32",
        "n_k": "i32",
        "box": "fp32",
    },
}  # fmt: skip


INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = [pytest.mark.tool, pytest.mark.gpu]


@pytest.fixture(scope="module")
def device():
    if torch.cuda.is_available():
        return "cuda:0"
    if not INTERPRETED:
        pytest.skip("no GPU, and TRITON_INTERPRET is not 1")
    return "cpu"


def on(device, *values):
    return [value.to(device) for value in values]


@pytest.fixture(scope="module")
def drawn():
    """A volume of noise, four views and three poses of each."""
    generator = torch.Generator().manual_seed(0)
    m = half_volume_size(RADIUS, PADDING)
    k = len(FREQUENCIES)

    def normal(*shape, dtype=torch.float32):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    return {
        "volume": normal(m, m, m // 2 + 1, dtype=torch.complex64),
        "signal": normal(N_VIEWS, k, dtype=torch.complex64),
        "weight": torch.rand(N_VIEWS, k, generator=generator),
        "rotations": random_rotations(N_VIEWS * N_POSES, generator=generator)
        .float()
        .view(N_VIEWS, N_POSES, 3, 3),
        "shifts": 4 * normal(N_VIEWS, N_POSES, 2, dtype=torch.float64),
        "probability": torch.tensor([[0.5, 0.5, 0.0]]).repeat(N_VIEWS, 1),
    }


def test_slices_are_those_of_the_processor(device, drawn):
    from verglas.kernels import _triton_poses

    operands = [drawn["volume"], drawn["rotations"].flatten(0, 1), FREQUENCIES]
    found = _triton_poses.extract(*on(device, *operands), PADDING)
    assert_close_to_peak(found.cpu(), extract_slices(*operands))


def test_scores_are_those_of_the_processor(device, drawn):
    from verglas.kernels import _triton_poses

    operands = [drawn[name] for name in ("volume", "signal", "weight", "rotations", "shifts")]
    how = {"box": BOX, "padding": PADDING}
    found = _triton_poses.scores(*on(device, *operands, FREQUENCIES), **how)
    assert_close_to_peak(found.cpu(), pose_scores(*operands, FREQUENCIES, **how), SUM32)


def test_derivatives_are_those_of_the_processor(device, drawn):
    from verglas.kernels import _triton_poses

    operands = [drawn[name] for name in ("volume", "signal", "weight")]
    operands += [drawn[name][:, 0].contiguous() for name in ("rotations", "shifts")]
    how = {"box": BOX, "padding": PADDING}
    found = _triton_poses.normals(*on(device, *operands, FREQUENCIES), **how)
    expected = pose_normals(*operands, FREQUENCIES, **how)
    for one, other in zip(found, vars(expected).values(), strict=True):
        assert_close_to_peak(one.cpu(), other, SUM32)


def test_insertion_is_that_of_the_processor(device, drawn):
    from verglas.kernels import _triton_poses

    operands = [drawn[name] for name in ("signal", "weight", "rotations", "shifts", "probability")]
    how = {"box": BOX, "padding": PADDING}
    sums = [(torch.zeros_like(drawn["volume"]), drawn["volume"].real * 0) for _ in range(2)]
    sums[0] = tuple(on(device, *sums[0]))
    _triton_poses.insert(*on(device, *operands, FREQUENCIES), **how, into=sums[0])
    insert_at_poses(*operands, FREQUENCIES, **how, radius=RADIUS, into=sums[1])
    for found, expected in zip(*sums, strict=True):
        assert_close_to_peak(found.cpu(), expected, SUM32)


@pytest.mark.skipif(INTERPRETED, reason="what is interpreted is not compiled")
@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("name", SIGNATURES)
def test_loops_compile_for_gpus(name, capability):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from verglas.kernels import _triton_loops

    source = ASTSource(
        fn=getattr(_triton_loops, name),
        signature=SIGNATURES[name] | _GRID | {"BLOCK": "constexpr"},
        constexprs={"BLOCK": 256},
    )
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    assert len(made.asm["cubin"]) > 0
