"""What is kept without tensors says the same as the kernels with tensors."""

import subprocess
import sys

import numpy as np
import pytest
import scipy.fft
import torch

from verglas.kernels import real_fft
from verglas.kernels.half_volumes import half_volume_of
from verglas.kernels.rotations import angles_of_rotations, rotations_of_angles, turned
from verglas.kernels.slices import volume_to_half_volume
from verglas.kernels.so3 import matrix_to_euler, rotation_from_vector


@pytest.mark.parametrize(("box", "radius"), [(16, 7), (17, 5), (20, 9)])
def test_half_volume_is_that_of_the_kernel(box, radius):
    volume = np.random.default_rng(0).normal(size=(box,) * 3).astype(np.float32)
    expected = volume_to_half_volume(torch.from_numpy(volume)[None], radius=radius)[0].numpy()
    found = half_volume_of(volume, radius=radius)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_angles_come_back():
    angles = np.random.default_rng(0).uniform((-180, 0, -180), 180, (50, 3))
    angles[0, 1], angles[1, 1] = 0.0, 180.0
    rotations = rotations_of_angles(angles)
    expected = matrix_to_euler(torch.from_numpy(rotations)).numpy()
    np.testing.assert_allclose(angles_of_rotations(rotations), expected, atol=1e-9)


@pytest.mark.parametrize("length", [0.0, 1e-9, 1e-3, 0.1, 3.0])
def test_a_frame_turns_as_the_kernel_says(length):
    vectors = np.random.default_rng(0).normal(size=(5, 3))
    vectors *= length / np.linalg.norm(vectors, axis=1, keepdims=True)
    rotations = rotations_of_angles(np.full((5, 3), 20.0))
    expected = rotation_from_vector(torch.from_numpy(vectors)).numpy() @ rotations
    np.testing.assert_allclose(turned(rotations, vectors), expected, atol=1e-12)


@pytest.mark.parametrize("is_alone", [True, False])
def test_transforms_are_those_of_scipy(is_alone, monkeypatch):
    if not is_alone:
        monkeypatch.setattr(real_fft, "_load", lambda: None)
        monkeypatch.delitem(sys.modules, real_fft._MODULE, raising=False)
    real_fft._transforms.cache_clear()
    values = np.random.default_rng(0).normal(size=(3, 9, 12)).astype(np.float32)
    for n_axes in (2, 3):
        axes = tuple(range(3 - n_axes, 3))
        found = real_fft.rfftn(values, n_axes)
        assert found.dtype == np.complex64
        assert np.abs(found - scipy.fft.rfftn(values, axes=axes)).max() < 1e-4
        assert np.abs(real_fft.irfftn(found, n_axes) - values).max() < 1e-5
    real_fft._transforms.cache_clear()


def test_transforms_do_not_load_the_rest_of_scipy():
    code = (
        "import sys, numpy as np\n"
        "from verglas.kernels.real_fft import rfftn\n"
        "rfftn(np.ones((2, 4, 4), 'f4'), 2)\n"
        "assert 'scipy.special' not in sys.modules\n"
        "import scipy.fft\n"
        "assert scipy.fft.rfft(np.ones(4))[0] == 4\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_none_of_it_loads_torch_or_numba():
    modules = ("rotations", "half_volumes", "disc_list", "real_fft", "_machine_code")
    code = "import sys\n" + "\n".join(f"import verglas.kernels.{name}" for name in modules)
    code += "\nassert not {'torch', 'numba'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
