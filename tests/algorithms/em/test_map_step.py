import pytest
import torch

from tests.algorithms.em.model_images import blob_volume
from verglas.algorithms.em.agreement import aligned_fsc, map_agreement
from verglas.algorithms.em.map_step import MapGrid, lift_odd_part, odd_share
from verglas.kernels.disc import half_disc
from verglas.kernels.slices import extract_slices, insert_slices
from verglas.kernels.so3 import random_rotations
from verglas.kernels.symmetry import symmetrise_volume, symmetry_operators

PIXEL_ANGST = 4.0


def _slices_sums(volume, radius, noise, grid):
    """Insert slices of a map at random orientations, with noise of a share of their power."""
    generator = torch.Generator().manual_seed(3)
    disc = half_disc(volume.shape[-1], radius)
    rotations = random_rotations(400, generator=generator)
    half_volume = grid.half_volumes(grid.resize(volume[None]))[0]
    slices = extract_slices(half_volume, rotations, disc.frequencies_px)
    drawn = torch.randn(*slices.shape, 2, generator=generator)
    slices = slices + noise * slices.abs().mean() * torch.view_as_complex(drawn)
    numerators, denominators = grid.zeros(2, 1)
    for half in range(2):
        insert_slices(
            slices[half::2],
            torch.ones(200, slices.shape[1]),
            rotations[half::2],
            disc.frequencies_px,
            radius=radius,
            into=(numerators[half, 0], denominators[half, 0]),
        )
    return numerators, denominators


@pytest.mark.parametrize("box", [24, 25])
def test_map_comes_back_from_its_slices(box):
    volume = blob_volume(box)
    grid = MapGrid(9, box * PIXEL_ANGST, 0.6 * box * PIXEL_ANGST)
    numerators, denominators = _slices_sums(volume, 9, 0.0, grid)
    maps = grid.maps_of(numerators, denominators, symmetry_operators("C1"), tau=1.0)
    wanted = grid.resize(volume[None]) * grid.mask
    cosine = torch.nn.functional.cosine_similarity(maps.flatten(), wanted.flatten(), 0)
    assert maps.shape == (1, grid.box, grid.box, grid.box)
    # the map goes on beyond shell 9
    assert float(cosine) > 0.95


def test_shells_of_noise_are_kept_out():
    volume = blob_volume(24)
    grid = MapGrid(9, 24 * PIXEL_ANGST, 60.0)
    operators = symmetry_operators("C1")
    clean = grid.maps_of(*_slices_sums(volume, 9, 0.0, grid), operators, tau=1.0)
    noisy = grid.maps_of(*_slices_sums(volume, 9, 30.0, grid), operators, tau=1.0)
    trusting = grid.maps_of(*_slices_sums(volume, 9, 30.0, grid), operators, tau=100.0)
    error = [float((m - clean).norm() / clean.norm()) for m in (noisy, trusting)]
    assert error[0] < 0.6 * error[1]


def test_smaller_sums_keep_their_place_when_the_radius_grows():
    small, large = MapGrid(5, 80.0, 50.0), MapGrid(9, 80.0, 50.0)
    numerators, _ = small.zeros(2, 1)
    numerators[:, :, small.side // 2 + 1, small.side // 2 - 2, 3] = 2.0
    grown = large.embed(numerators)
    assert complex(grown[1, 0, large.side // 2 + 1, large.side // 2 - 2, 3]) == 2.0
    assert complex(grown.sum()) == complex(numerators.sum())
    with pytest.raises(ValueError, match="shrink"):
        small.embed(grown)


@pytest.mark.parametrize("box", [20, 21])
def test_lifting_holds_the_odd_part_at_its_share(box):
    maps = blob_volume(box)[None]
    even = (maps + lift_odd_part(maps, share=0.0, gain=1.0)) / 2
    assert torch.allclose(even, maps, atol=1e-6)
    inverted = maps.flip(1, 2, 3) if box % 2 else maps.flip(1, 2, 3).roll((1, 1, 1), (1, 2, 3))
    faint = (maps + inverted) / 2 + 0.01 * (maps - inverted) / 2
    before = float(odd_share(faint))
    assert float(odd_share(lift_odd_part(faint, share=1.0, gain=3.0))) == pytest.approx(
        3 * before, rel=1e-3
    )
    assert float(odd_share(lift_odd_part(faint, share=2 * before, gain=9.0))) == pytest.approx(
        2 * before, rel=1e-3
    )
    assert torch.allclose(lift_odd_part(maps, share=0.0, gain=3.0), maps, atol=1e-6)


def _agreement(a, b, symmetry):
    return map_agreement(
        a, b, pixel_size_angst=4.0, diameter_angst=60.0, resolution_angst=12.0, symmetry=symmetry
    )


def test_mirrored_maps_of_a_fixed_group_agree_and_others_do_not():
    volume, other = (
        symmetrise_volume(blob_volume(24, seed=s)[None], symmetry_operators("O"))[0] for s in (0, 5)
    )
    mirrored = volume.flip(0).roll(1, 0)
    assert _agreement(volume, mirrored, "O") > 0.99
    assert _agreement(volume, other, "O") < 0.8


def test_turned_maps_without_symmetry_are_aligned_first():
    volume = blob_volume(24)
    turned = volume.permute(2, 0, 1).contiguous().roll((1, 0, -1), (0, 1, 2))
    curve = aligned_fsc(
        volume,
        turned,
        pixel_size_angst=4.0,
        diameter_angst=60.0,
        resolution_angst=12.0,
        symmetry="C1",
    )
    assert float(curve[2:].mean()) > 0.9
