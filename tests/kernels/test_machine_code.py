"""Loops kept as machine code: they are those of numba, and need no numba once they are kept."""

import subprocess
import sys

import numpy as np
import pytest

from verglas.kernels import _machine_code, _numba_sums
from verglas.kernels._machine_code import CompiledLoop

ARGUMENTS = "f4[4] f8 f8[1] f8[1]"


@pytest.fixture
def sums():
    return np.random.default_rng(1).random((13, 13, 7, 4)).astype(np.float32)


def radial(loop, sums):
    total, count = np.zeros((2, 5))
    loop(sums, 1.5, total, count)
    return total, count


def test_a_loop_does_what_numba_makes_of_it(sums):
    found = radial(CompiledLoop("_numba_sums", "radial_weight", ARGUMENTS), sums)
    expected = radial(_numba_sums.radial_weight, sums)
    assert np.array_equal(found, expected)
    assert expected[1].sum() > 100


@pytest.mark.parametrize(
    "change", [lambda a: a[..., :2], lambda a: a.astype(float), lambda a: a[0]]
)
def test_arrays_of_another_kind_are_refused(sums, change):
    with pytest.raises(TypeError, match="contiguous"):
        radial(CompiledLoop("_numba_sums", "radial_weight", ARGUMENTS), change(sums))


def test_what_cannot_be_kept_is_called_by_way_of_numba(sums, monkeypatch):
    monkeypatch.setattr(_machine_code, "_COMMON", frozenset())
    monkeypatch.setattr(_machine_code, "_compile", lambda *_: None)
    monkeypatch.setattr(_machine_code, "_fingerprint", lambda: "none")
    found = radial(CompiledLoop("_numba_sums", "radial_weight", ARGUMENTS), sums)
    assert np.array_equal(found, radial(_numba_sums.radial_weight, sums))


def test_kept_code_is_found_again_without_numba(tmp_path, monkeypatch):
    code = (
        "import sys, numpy as np\n"
        "from verglas.kernels._machine_code import CompiledLoop\n"
        f"loop = CompiledLoop('_numba_sums', 'radial_weight', {ARGUMENTS!r})\n"
        "total, count = np.zeros((2, 5))\n"
        "loop(np.ones((13, 13, 7, 4), 'f4'), 1.5, total, count)\n"
        "print(int(total.sum()), 'numba' in sys.modules)\n"
    )
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    said = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    first, second = (run.stdout.split() for run in said)
    assert first[0] == second[0]
    assert (first[1], second[1]) == ("True", "False")
    assert len(list(tmp_path.glob("*.o"))) == 1
