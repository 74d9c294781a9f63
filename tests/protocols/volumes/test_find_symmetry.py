import pytest
import torch

from tests.protocols.simulated import volumes_of
from verglas.algorithms.resample import MapPose, resample_volume
from verglas.core.errors import ParamsError
from verglas.io.mrc import read_mrc
from verglas.kernels.so3 import random_rotations
from verglas.kernels.symmetry import symmetrise_volume, symmetry_operators
from verglas.protocols.volumes.find_symmetry import FindSymmetryParams, Inputs, run
from verglas.sdk.testing import LocalContext, check_protocol


def _map(symmetry):
    """Smooth noise with a group about axes that lie at random."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 28, 28, 28, generator=generator)
    smooth = torch.nn.functional.avg_pool3d(noise, 5, 1, 2)
    axis = torch.arange(28) - 14
    ball = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2) < 80
    volume = symmetrise_volume(smooth.clamp_min(0) * ball, symmetry_operators(symmetry))[0]
    pose = MapPose(random_rotations(1, generator=generator)[0], torch.zeros(3, dtype=torch.float64))
    return resample_volume(volume, pose, pixel_size_angst=5.0, box=28, output_pixel_size_angst=5.0)


def test_find_symmetry_keeps_the_contract():
    check_protocol(run)


def test_map_is_turned_onto_the_axes_of_its_group(tmp_path):
    ctx = LocalContext(tmp_path)
    params = FindSymmetryParams(groups="C2, C3, D3", resolution_angst=20)
    out = run(ctx, params, Inputs(volumes=volumes_of(tmp_path, _map("D3"))))
    row = out.volumes.rows().row(0, named=True)
    assert row["symmetry"] == "D3"
    placed = torch.from_numpy(read_mrc(out.volumes.path(row["image_path"]))[0])
    mean = symmetrise_volume(placed[None], symmetry_operators("D3"))[0]
    cosine = torch.nn.functional.cosine_similarity(placed.flatten(), mean.flatten(), 0)
    assert float(cosine) > 0.9
    labels = out.scores.rows()["label"].to_list()
    assert [label.split(":")[0] for label in labels] == ["C2", "C3", "D3"]


def test_group_that_is_none_is_refused(tmp_path):
    inputs = Inputs(volumes=volumes_of(tmp_path, torch.zeros(8, 8, 8)))
    with pytest.raises(ParamsError, match="must not hold C1"):
        run(LocalContext(tmp_path), FindSymmetryParams(groups="C1, O"), inputs)
    with pytest.raises(ParamsError, match="point group must be"):
        run(LocalContext(tmp_path), FindSymmetryParams(groups="Q3"), inputs)
