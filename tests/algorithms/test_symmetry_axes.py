import math

import pytest
import torch

from tests.algorithms.blobs import blob_map
from verglas.algorithms.resample import MapPose, resample_volume
from verglas.algorithms.symmetry_axes import (
    centre_of_mass_angst,
    centred,
    choose_group,
    find_axes,
    place_on_axes,
)
from verglas.kernels.so3 import random_rotations
from verglas.kernels.symmetry import symmetrise_volume, symmetry_operators

PIXEL_ANGST = 4.0
MENU = ("C2", "C3", "D2", "O")
QUICK = ("C2", "D2")


def _globule(box):
    """Twenty blobs anywhere in a ball of 40 Å."""
    generator = torch.Generator().manual_seed(9)
    points = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    radius = 40 * torch.rand(20, 1, generator=generator, dtype=torch.float64) ** (1 / 3)
    points = radius * points / points.norm(dim=1, keepdim=True)
    return blob_map(points.numpy(), box=box, pixel_size_angst=PIXEL_ANGST, sigma_angst=4.0)


def _turned(symmetry, *, box=32, noise=0.0, shift=(0.0, 0.0, 0.0), seed=0):
    """A map of a group, turned at random, moved, with white noise of a share of its spread."""
    generator = torch.Generator().manual_seed(seed)
    volume = symmetrise_volume(_globule(box)[None], symmetry_operators(symmetry))[0]
    pose = MapPose(
        random_rotations(1, generator=generator)[0], torch.tensor(shift, dtype=torch.float64)
    )
    turned = resample_volume(
        volume,
        pose,
        pixel_size_angst=PIXEL_ANGST,
        box=box,
        output_pixel_size_angst=PIXEL_ANGST,
    )
    return turned + noise * volume.std() * torch.randn(turned.shape, generator=generator)


def _searched(volume, groups=MENU, radius=9):
    generator = torch.Generator().manual_seed(1)
    return [find_axes(volume, symmetry=g, radius=radius, generator=generator) for g in groups]


@pytest.mark.parametrize("symmetry", ["C3", "D2", "O"])
def test_group_of_a_turned_noisy_map_is_found(symmetry):
    # noise of the spread of the map itself
    volume = _turned(symmetry, noise=1.0)
    chosen = choose_group(_searched(volume))
    assert chosen is not None
    assert chosen.symmetry == symmetry


def test_map_without_symmetry_has_none():
    assert choose_group(_searched(_turned("C1", noise=0.5), QUICK)) is None


def test_rod_is_not_taken_for_a_cyclic_group():
    # it looks alike after any turn about its length
    z = torch.linspace(-36, 36, 13, dtype=torch.float64)
    points = torch.stack([0.1 * z, -0.05 * z, z], 1) + torch.tensor([1.0, 2.0, 0.0])
    rod = blob_map(points.numpy(), box=32, pixel_size_angst=PIXEL_ANGST, sigma_angst=5.0)
    generator = torch.Generator().manual_seed(0)
    noisy = rod + 0.2 * rod.std() * torch.randn(rod.shape, generator=generator)
    found = _searched(noisy, ("C3", "C4", "C5"))
    assert min(axes.score for axes in found) > 0.5
    assert choose_group(found) is None


@pytest.mark.parametrize("symmetry", ["C4", "D3", "O"])
def test_axes_come_to_where_they_belong(symmetry):
    volume = centred(_turned(symmetry, shift=(6.0, -4.0, 8.0)), pixel_size_angst=PIXEL_ANGST)
    (axes,) = _searched(volume, (symmetry,))
    placed = place_on_axes(volume, axes, pixel_size_angst=PIXEL_ANGST)
    mean = symmetrise_volume(placed[None], symmetry_operators(symmetry))[0]
    cosine = torch.nn.functional.cosine_similarity(placed.flatten(), mean.flatten(), 0)
    assert float(cosine) > 0.97


def test_axis_of_a_turned_map_is_exact_to_a_degree():
    generator = torch.Generator().manual_seed(4)
    rotation = random_rotations(1, generator=generator)[0]
    volume = symmetrise_volume(_globule(32)[None], symmetry_operators("C5"))[0]
    turned = resample_volume(
        volume,
        MapPose(rotation, torch.zeros(3, dtype=torch.float64)),
        pixel_size_angst=PIXEL_ANGST,
        box=32,
        output_pixel_size_angst=PIXEL_ANGST,
    )
    (axes,) = _searched(turned, ("C5",))
    cosine = float((axes.rotation_map_to_ref.T[:, 2] * rotation[:, 2]).sum().abs())
    assert math.degrees(math.acos(min(1.0, cosine))) < 1.0


def test_centre_of_mass_follows_a_shift():
    volume = _turned("O", shift=(8.0, -4.0, 12.0))
    centre = centre_of_mass_angst(volume, pixel_size_angst=PIXEL_ANGST)
    assert centre.tolist() == pytest.approx([8.0, -4.0, 12.0], abs=0.5)
    again = centre_of_mass_angst(
        centred(volume, pixel_size_angst=PIXEL_ANGST), pixel_size_angst=PIXEL_ANGST
    )
    assert again.tolist() == pytest.approx([0.0, 0.0, 0.0], abs=0.5)
