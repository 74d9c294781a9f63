"""Agreement of maps with models."""

import dataclasses

import numpy as np
import pytest
import torch

from tests.algorithms.blobs import asymmetric_points, blob_map, with_noise
from tests.source import ROOT
from verglas.algorithms.map_align import AlignConfig
from verglas.algorithms.map_fsc import masked_fsc
from verglas.algorithms.model_fsc import model_fsc
from verglas.algorithms.resample import MapPose, resample_volume
from verglas.io import atoms as io_atoms
from verglas.io.mrc import read_mrc
from verglas.kernels.filters import apply_b_factor
from verglas.kernels.so3 import pose_distance_deg, random_rotations
from verglas.kernels.symmetry import symmetrise_volume, symmetry_operators
from verglas.simulate.atoms import Atoms, centred, transformed
from verglas.simulate.potential import potential_volume

SHARED = ROOT.parent / "shared" / "data"
QUICK = AlignConfig(order=2, diameter_angst=70.0, candidates=4)
BOX, PIXEL = 40, 2.5


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_pose(seed, *, mirrored=False):
    seeded = generator(seed)
    turn = random_rotations(1, generator=seeded)[0]
    return MapPose(turn, torch.randn(3, generator=seeded, dtype=torch.float64), mirrored)


@pytest.fixture(scope="module")
def mirrored_map():
    """A noisy map, mirrored, turned and sharpened away from its model."""
    truth, points = random_pose(1, mirrored=True), asymmetric_points(radius_angst=24.0)
    model = blob_map(points, box=BOX, pixel_size_angst=PIXEL, sigma_angst=3.0)
    placed = truth.to_map(torch.from_numpy(points)).numpy()
    volume = blob_map(placed, box=BOX, pixel_size_angst=PIXEL, sigma_angst=3.0)
    # noise 2 x the map's standard deviation in every voxel
    noisy = with_noise(volume, ratio=2.0)
    return (
        model,
        noisy,
        volume,
        model_fsc(noisy, model, pixel_size_angst=PIXEL, generator=generator(), align=QUICK),
    )


def test_model_lies_on_the_map_in_the_right_hand(mirrored_map):
    _, _, volume, found = mirrored_map
    assert found.alignment.best.pose.mirrored
    assert found.other_hand_05_angst > 1.5 * found.resolution_05_angst
    both = torch.stack([found.model.flatten(), volume.flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.99


def test_resolution_equals_that_of_the_right_answer(mirrored_map):
    _, noisy, volume, found = mirrored_map
    # shell correlation of the map with its own noise-free self, same mask
    best = masked_fsc(noisy, volume, found.mask, pixel_size_angst=PIXEL, generator=generator())
    expected = best.resolution_angst(best.masked, 0.5)
    assert found.resolution_05_angst == pytest.approx(expected, rel=0.03)
    assert found.resolution_corrected_05_angst == pytest.approx(expected, rel=0.05)
    assert found.resolution_0143_angst < found.resolution_05_angst
    assert found.resolution_unmasked_05_angst >= found.resolution_05_angst


def test_noise_agrees_with_no_model():
    model = blob_map(asymmetric_points(), box=BOX, pixel_size_angst=PIXEL, sigma_angst=3.0)
    noise = torch.randn(BOX, BOX, BOX, generator=generator(2))
    found = model_fsc(
        noise,
        model,
        pixel_size_angst=PIXEL,
        generator=generator(),
        align=dataclasses.replace(QUICK, order=1),
    )
    assert found.resolution_05_angst > 25


def test_pixel_size_that_the_model_prefers_is_reported():
    points = asymmetric_points(radius_angst=24.0)
    model = blob_map(points, box=BOX, pixel_size_angst=PIXEL, sigma_angst=3.0)
    # stated 2 % too small; noise 0.5 x
    volume = blob_map(points, box=BOX, pixel_size_angst=PIXEL * 1.02, sigma_angst=3.0)
    found = model_fsc(
        with_noise(volume, ratio=0.5),
        model,
        pixel_size_angst=PIXEL,
        generator=generator(),
        align=dataclasses.replace(QUICK, both_hands=False),
        fit_pixel_size=True,
    )
    assert found.rescaled is not None
    assert found.rescaled.pose.pixel_size_factor == pytest.approx(1.02, abs=0.003)
    factor = found.rescaled.pose.pixel_size_factor
    assert found.rescaled_05_angst / factor <= found.resolution_05_angst


def read_atoms(name):
    path = SHARED / "models" / name
    if not path.exists():
        pytest.skip(f"needs {path}")
    found = io_atoms.read_atoms(path)
    return Atoms.from_arrays(
        found.positions_angst, found.elements, found.b_factors_angst2, found.occupancies
    )


@pytest.mark.data
def test_haemoglobin_map_agrees_with_its_model_to_the_published_resolution():
    atoms = read_atoms("5ni1.cif.gz")
    volume, pixel = read_mrc(SHARED / "maps" / "emd_3488.map.gz")
    # EMDB maps have the origin of the coordinates at their first voxel
    placed = transformed(atoms, np.eye(3), -50 * pixel)
    model = potential_volume(placed, box_px=100, pixel_size_angst=pixel)
    found = model_fsc(
        torch.from_numpy(volume),
        model,
        pixel_size_angst=pixel,
        generator=generator(),
        align=AlignConfig(diameter_angst=75.0),
    )
    # EMD-3488 is published at 3.2 Å; measured here 3.24 Å
    assert found.resolution_05_angst == pytest.approx(3.2, abs=0.15)
    assert found.resolution_corrected_05_angst == pytest.approx(found.resolution_05_angst, rel=0.01)
    pose = found.alignment.best.pose
    assert not pose.mirrored
    assert found.other_hand_05_angst > 8
    # the deposited orientation, or its mate by the molecule's 2-fold along z
    home = torch.eye(3, dtype=torch.float64)[None]
    turn = pose_distance_deg(pose.rotation_map_to_ref[None], home, symmetry_operators("C2"))
    assert float(turn[0]) < 0.2
    assert float(pose.shift_angst.norm()) < 0.1 * pixel


@pytest.mark.data
@pytest.mark.parametrize("mirrored", [False, True])
def test_octahedral_ferritin_map_finds_its_model(mirrored):
    # box 160 at 1.5 Å, B = 250 Å^2, symmetrised noise that meets the signal at 6.7 Å; the
    # model lies in a general orientation, so the map's own axes must be used for the group
    atoms = centred(read_atoms("6z6u.pdb.gz"))
    operators, truth = symmetry_operators("O"), random_pose(4)
    turned = transformed(atoms, truth.rotation_map_to_ref.numpy(), truth.shift_angst.numpy())
    model = potential_volume(turned, box_px=160, pixel_size_angst=1.5)
    signal = potential_volume(atoms, box_px=160, pixel_size_angst=1.5, b_factor_angst2=250.0)
    noise = symmetrise_volume(torch.randn(1, 160, 160, 160, generator=generator(3)), operators)
    noise = apply_b_factor(noise, b_factor_angst2=60.0, pixel_size_angst=1.5)[0]
    volume = signal + noise * (1.5 * signal.std() / noise.std())
    if mirrored:
        flip = MapPose(torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), True)
        volume = resample_volume(volume, flip, pixel_size_angst=1.5, oversampling=1.0)
    found = model_fsc(
        volume,
        model,
        pixel_size_angst=1.5,
        generator=generator(),
        align=AlignConfig(symmetry="O", diameter_angst=130.0),
    )
    pose = found.alignment.best.pose
    error = pose_distance_deg(
        pose.rotation_map_to_ref[None], truth.rotation_map_to_ref[None], operators
    )
    assert pose.mirrored == mirrored
    assert float(error[0]) < 0.2
    assert float((pose.shift_angst - truth.shift_angst).norm()) < 0.15
    assert 5 < found.resolution_05_angst < 9
    assert found.other_hand_05_angst > 1.5 * found.resolution_05_angst
    control = found.fsc.randomised[found.fsc.random_from_shell + 2 :]
    assert float(control.abs().mean()) < 0.1


@pytest.mark.data
def test_ferritins_of_two_species_lie_on_each_other_without_symmetry_given():
    # a hollow shell, searched in all orientations; other box, pixel size and B factors
    turn = random_rotations(1, generator=generator(9))[0]
    horse, human = (centred(read_atoms(name)) for name in ("6z6u.pdb.gz", "7a4m.cif.gz"))
    model = potential_volume(horse, box_px=120, pixel_size_angst=1.5)
    volume = potential_volume(
        transformed(human, turn.numpy()), box_px=150, pixel_size_angst=1.2, b_factor_angst2=100.0
    )
    found = model_fsc(
        volume,
        model,
        pixel_size_angst=1.2,
        model_pixel_size_angst=1.5,
        generator=generator(),
        align=AlignConfig(diameter_angst=130.0),
    )
    pose = found.alignment.best.pose
    # both files have the 4-folds along x, y and z
    home = torch.eye(3, dtype=torch.float64)[None]
    between = (pose.rotation_map_to_ref @ turn)[None]
    assert float(pose_distance_deg(between, home, symmetry_operators("O"))[0]) < 0.1
    assert not pose.mirrored
    assert found.alignment.hand_difference > 0.5
    assert found.resolution_05_angst < 4
