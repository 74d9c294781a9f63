import torch

from tests.algorithms.em.model_images import PIXEL_ANGST, draw_views, make_setting
from verglas.algorithms.em.class_split import (
    SplitConfig,
    labels_agreement,
    matched_labels,
    split_views,
)
from verglas.algorithms.em.known_poses import expect_known
from verglas.algorithms.em.map_step import MapGrid
from verglas.algorithms.em.references import References
from verglas.kernels.so3 import random_rotations

BOX, RADIUS, N = 20, 6, 300
EXTENT = BOX * PIXEL_ANGST


def _scene(n_references, energy=12.0):
    """Views at random poses, an equal share of each map, with shifts of 2 Å."""
    setting = make_setting(box=BOX, radius=RADIUS, n_references=n_references, energy=energy)
    generator = torch.Generator().manual_seed(1)
    rotations = random_rotations(N, generator=generator)
    shifts = 2 * torch.randn(N, 2, generator=generator, dtype=torch.float64)
    label = torch.arange(N) % n_references
    return (
        setting,
        draw_views(setting, rotations, shifts, reference=label),
        rotations,
        shifts,
        label,
    )


def _split(scene, n_classes, seed=0):
    _, views, rotations, shifts, _ = scene
    return split_views(
        views,
        SplitConfig(n_classes),
        MapGrid(RADIUS, EXTENT, 0.8 * EXTENT),
        rotations_ref_to_img=rotations,
        shifts_angst=shifts,
        half=torch.arange(N) // 2 % 2,
        seed=seed,
    )


def test_two_maps_are_told_apart_from_random_classes():
    scene = _scene(2, energy=40.0)
    found = _split(scene, 2)
    # 300 views of 20 px, 40 log units each from nothing, of two unlike maps
    assert labels_agreement(scene[4], found.label, 2) > 0.9
    assert found.gain_loglik > 1.0
    assert abs(float(found.share.sum()) - 1) < 1e-5


def test_one_map_gives_classes_that_explain_nothing():
    assert _split(_scene(1), 2).gain_loglik < 0.1


def test_classes_are_matched_whatever_their_numbers():
    label = torch.tensor([0, 0, 1, 1, 2, 2])
    other = torch.tensor([2, 2, 0, 0, 1, 0])
    assert matched_labels(label, other, 3).tolist() == [0, 0, 1, 1, 2, 1]
    assert abs(labels_agreement(label, other, 3) - 5 / 6) < 1e-12


def test_views_at_their_poses_are_nearest_to_their_own_map():
    setting, views, rotations, shifts, label = _scene(2)
    references = References(setting.half_volumes, torch.full((2,), 0.5).log(), 2, planar=False)
    poses, sums = expect_known(
        views,
        references,
        n_groups=1,
        rotations_ref_to_img=rotations,
        shifts_angst=shifts,
        noise_radius_angst=EXTENT / 2,
    )
    assert float((poses.reference == label).double().mean()) > 0.9
    assert abs(float(sums.class_weight.sum()) - N) < 1e-4
    noise = (sums.residual_power / sums.residual_count)[0, 2:]
    torch.testing.assert_close(noise.float(), setting.noise_power[0, 2:], rtol=0.25, atol=0)
