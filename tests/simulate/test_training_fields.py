"""Fields for training are seeded, hold what they say, and know every shape."""

from dataclasses import replace

import numpy as np
import pytest

from verglas.simulate.random_shapes import (
    KINDS_OF_SHAPE,
    draw_shape,
    project_shape,
    random_rotations,
)
from verglas.simulate.training_fields import FieldConfig, draw_training_field

CLEAN = FieldConfig(dirt_fraction=0.0, empty_fraction=0.0, min_snr=3.0, max_snr=3.1)


@pytest.mark.parametrize("kind", sorted(KINDS_OF_SHAPE))
def test_shapes_fill_their_diameter_about_their_centre_of_mass(kind):
    shape = draw_shape(np.random.default_rng(0), kind)
    reach = np.linalg.norm(shape.centres, axis=1)
    assert np.allclose(shape.weights @ shape.centres, 0.0, atol=1e-3 * shape.weights.sum())
    assert 0.4 < np.quantile(reach, 0.98) <= 0.5
    assert shape.kind == kind


def test_projections_keep_mass_and_centre_in_every_pose():
    """Mass within 1 %, centre of mass within 0.02 px of the wanted fraction of a pixel."""
    rng = np.random.default_rng(1)
    shape = draw_shape(rng, "domains")
    fraction = rng.uniform(0, 1, (5, 2))
    images = project_shape(shape, random_rotations(rng, 5), fraction, diameter_px=20.0)
    total = images.sum(axis=(1, 2))
    axis = np.arange(images.shape[-1]) - images.shape[-1] // 2
    x, y = (images.sum(axis=1) @ axis) / total, (images.sum(axis=2) @ axis) / total
    assert np.ptp(total) < 0.01 * total.mean()
    assert np.allclose(np.stack([x, y], axis=1), fraction, atol=0.02)


def test_equal_seeds_give_equal_fields():
    first, second = (draw_training_field(np.random.default_rng(7), FieldConfig()) for _ in range(2))
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.centres_px, second.centres_px)


def test_many_fields_are_finite_and_their_particles_lie_outside_dirt():
    rng = np.random.default_rng(2)
    config = FieldConfig(dirt_fraction=1.0, side_px=96)
    share = []
    for _ in range(40):
        field = draw_training_field(rng, config)
        assert np.isfinite(field.image).all()
        inside = ((field.centres_px >= 0) & (field.centres_px < 96)).all(axis=1)
        pixel = field.centres_px[inside].astype(int)
        assert not field.dirt[pixel[:, 1], pixel[:, 0]].any()
        share.append(field.dirt.mean())
    assert 0.05 < np.mean(share) < 0.7


def test_particles_are_bright_where_the_truth_says():
    """Mean of balls over 12 strong fields: the centre stands out from all places at random."""
    rng = np.random.default_rng(3)
    config = FieldConfig(**{**CLEAN.__dict__, "kind": "ball"})
    at_centres, anywhere = [], []
    for _ in range(12):
        field = draw_training_field(rng, config)
        image = field.image - field.image.mean()
        inside = ((field.centres_px >= 1) & (field.centres_px < 142)).all(axis=1)
        pixel = np.rint(field.centres_px[inside]).astype(int)
        at_centres.extend(image[pixel[:, 1], pixel[:, 0]] / image.std())
        anywhere.extend(image[::9, ::9].ravel() / image.std())
    assert np.mean(at_centres) > np.mean(anywhere) + 0.5


def test_an_empty_field_has_no_centres():
    field = draw_training_field(np.random.default_rng(4), FieldConfig(empty_fraction=1.0))
    assert field.centres_px.shape == (0, 2)


def test_particles_seen_through_dirt_get_no_centres():
    """The image changes where they lie, and all centres given are outside of the dirt."""
    hidden = FieldConfig(dirt_fraction=1.0, empty_fraction=0.0, min_snr=3.0, max_snr=3.1)
    shown = replace(hidden, covered_fraction=1.0)
    n_seen = 0
    for seed in range(8):
        field = draw_training_field(np.random.default_rng(seed), shown)
        plain = draw_training_field(np.random.default_rng(seed), hidden)
        assert np.array_equal(field.dirt, plain.dirt)
        assert np.array_equal(field.centres_px, plain.centres_px)
        n_seen += not np.array_equal(field.image, plain.image)
    assert n_seen > 0
