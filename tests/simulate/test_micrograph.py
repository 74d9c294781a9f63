import dataclasses

import numpy as np
import polars as pl
import pytest
import torch

from verglas.kernels.ctf import evaluate_ctf
from verglas.kernels.fourier import fourier_shift, irfft2, rfft2, rfft_grid
from verglas.model.columns import COLUMNS
from verglas.simulate.atoms import radius_angst
from verglas.simulate.contamination import ContaminationConfig
from verglas.simulate.micrograph import (
    MicrographConfig,
    contamination_of,
    draw_micrographs,
    prepare_micrograph_renderer,
    render_micrograph,
    simulate_micrographs,
)
from verglas.simulate.particles import Optics
from verglas.simulate.potential import potential_volume

CONFIG = MicrographConfig(
    n_micrographs=2,
    height_px=240,
    width_px=320,
    optics=Optics(pixel_size_angst=3.0),
    particles_per_micrograph=12,
    seed=5,
)
CLEAN = dataclasses.replace(
    CONFIG,
    ice_thickness_angst=0.0,
    shot_noise="none",
    gradient=0.0,
    mtf_at_nyquist=1.0,
)


def test_particles_do_not_overlap_and_lie_inside():
    config = dataclasses.replace(CONFIG, particles_per_micrograph=40)
    _, particles = draw_micrographs(config, 120.0)
    assert particles.height > 20
    for _, field in particles.group_by("micrograph_id"):
        places = field.select("coord_x_angst", "coord_y_angst").to_numpy()
        distance = np.linalg.norm(places[:, None] - places, axis=-1)
        assert (distance[np.triu_indices(len(places), 1)] >= 1.1 * 120).all()
        assert (places >= 60).all()
        assert (places <= np.array([319, 239]) * 3.0 - 60).all()


def test_a_full_field_ends_with_fewer_particles():
    config = dataclasses.replace(CONFIG, particles_per_micrograph=1000, n_micrographs=1)
    _, particles = draw_micrographs(config, 200.0)
    assert 3 < particles.height < 30


def test_truth_tables_have_declared_columns_and_matching_ids():
    micrographs, particles = draw_micrographs(CONFIG, 120.0)
    for table in (micrographs, particles):
        assert set(table.columns) <= set(COLUMNS)
        assert table["item_id"].is_unique().all()
    assert set(particles["micrograph_id"]) == set(micrographs["item_id"])
    assert (particles["source_id"] == particles["micrograph_id"]).all()


def test_heights_change_the_defocus_within_their_spread():
    config = dataclasses.replace(CONFIG, height_spread_angst=300.0)
    micrographs, particles = draw_micrographs(config, 100.0)
    own = particles.join(
        micrographs.select(micrograph_id="item_id", mean_u="defocus_u_angst"), on="micrograph_id"
    )
    height = own["defocus_u_angst"] - own["mean_u"]
    assert height.abs().max() <= 150
    assert height.std() > 40


def test_protein_is_dark_where_the_truth_says(shell):
    config = dataclasses.replace(CLEAN, n_micrographs=1)
    made = simulate_micrographs(shell, config)
    image = made.images[0] / made.images[0].mean()
    yy, xx = np.mgrid[:240, :320] * 3.0
    inside = np.zeros(image.shape, bool)
    for x, y in made.particles.select("coord_x_angst", "coord_y_angst").iter_rows():
        inside |= np.hypot(xx - x, yy - y) < radius_angst(shell)
    assert image[inside].mean() < image[~inside].mean() - 0.01


def test_one_particle_is_its_projection_through_its_own_ctf(shell):
    config = dataclasses.replace(CLEAN, n_micrographs=1, particles_per_micrograph=1)
    micrograph, particle = draw_micrographs(config, 2 * radius_angst(shell))
    # the pose whose projection is the sum over z, at a sub-pixel place away from the borders
    particle = particle.with_columns(
        angle_rot_deg=0.0,
        angle_tilt_deg=0.0,
        angle_psi_deg=0.0,
        coord_x_angst=452.1,
        coord_y_angst=379.6,
    )
    renderer = prepare_micrograph_renderer(shell, config)
    image = render_micrograph(renderer, micrograph, particle)
    contrast = torch.from_numpy(image / (40.0 * 9.0) - 1)[None]

    shape = (240, 320)
    volume = potential_volume(shell, box_px=80, pixel_size_angst=3.0)
    canvas = torch.zeros((1, *shape))
    canvas[0, 80:160, 120:200] = volume.sum(0) * 3.0 * 6.526e-4  # rad per V Å at 300 kV
    row = particle.row(0, named=True)
    moved = [row["coord_x_angst"] - 160 * 3.0, row["coord_y_angst"] - 120 * 3.0]
    canvas_ft = fourier_shift(
        rfft2(canvas), torch.tensor([moved]), shape=shape, pixel_size_angst=3.0
    )
    names = ("defocus_u_angst", "defocus_v_angst", "defocus_angle_deg", "phase_shift_deg")
    ctf = evaluate_ctf(
        rfft_grid(shape, 3.0),
        **{name: torch.tensor([row[name]]) for name in names},
        voltage_kv=300.0,
        spherical_aberration_mm=2.7,
        amplitude_contrast=0.1,
        b_factor_angst2=torch.tensor([config.b_factor_angst2]),
    )
    expected = irfft2(canvas_ft * (-2 * ctf), shape=shape)
    # what differs is the Nyquist plane of the volume's own box, which is left out
    assert (contrast - expected).std() < 0.025 * expected.std()


def test_counts_are_poisson_about_the_dose(few_atoms):
    config = dataclasses.replace(
        CLEAN, particles_per_micrograph=0, shot_noise="poisson", n_micrographs=1
    )
    image = simulate_micrographs(few_atoms, config).images[0]
    electrons = 40.0 * 9.0
    n = image.size
    assert (image == np.rint(image)).all()
    assert image.mean() == pytest.approx(electrons, abs=4 * np.sqrt(electrons / n))
    assert image.var() == pytest.approx(electrons, abs=4 * electrons * np.sqrt(2 / n))


def test_gaussian_counts_have_the_same_mean_and_variance(few_atoms):
    config = dataclasses.replace(
        CLEAN, particles_per_micrograph=0, shot_noise="gaussian", n_micrographs=1
    )
    image = simulate_micrographs(few_atoms, config).images[0]
    assert image.mean() == pytest.approx(360, abs=4 * np.sqrt(360 / image.size))
    assert image.var() == pytest.approx(360, abs=4 * 360 * np.sqrt(2 / image.size))


def test_ice_shows_the_rings_of_its_defocus(few_atoms):
    config = dataclasses.replace(
        CLEAN,
        n_micrographs=1,
        height_px=512,
        width_px=512,
        optics=Optics(2.0),
        particles_per_micrograph=0,
        ice_thickness_angst=100.0,
        defocus_min_angst=12000,
        defocus_max_angst=12000,
        astigmatism_angst=0.0,
    )
    image = torch.from_numpy(simulate_micrographs(few_atoms, config).images)
    power = rfft2(image / image.mean() - 1).abs() ** 2
    k = rfft_grid((512, 512), 2.0)
    zero = torch.zeros(1)
    ctf2 = (
        evaluate_ctf(
            k,
            defocus_u_angst=zero + 12000,
            defocus_v_angst=zero + 12000,
            defocus_angle_deg=zero,
            phase_shift_deg=zero,
            voltage_kv=300.0,
            spherical_aberration_mm=2.7,
            amplitude_contrast=0.1,
        )
        ** 2
    )
    modulus = k.norm(dim=-1)
    for low, high in ((0.04, 0.1), (0.1, 0.18)):
        band = (modulus > low) & (modulus < high)
        bright, dark = band & (ctf2[0] > 0.9), band & (ctf2[0] < 0.05)
        assert power[0][dark].mean() < 0.15 * power[0][bright].mean()


def test_gradient_tilts_the_brightness(few_atoms):
    config = dataclasses.replace(CLEAN, gradient=0.4, particles_per_micrograph=0, n_micrographs=1)
    image = simulate_micrographs(few_atoms, config).images[0] / 360.0
    corners = image[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert image.mean() == pytest.approx(1, abs=1e-4)
    assert 0.4 <= np.ptp(corners) <= 0.4 * np.sqrt(2) + 1e-3


def test_detector_takes_signal_at_high_frequency(shell):
    sharp, soft = (
        simulate_micrographs(
            shell, dataclasses.replace(CLEAN, mtf_at_nyquist=mtf, n_micrographs=1)
        ).images
        for mtf in (1.0, 0.5)
    )
    ratio = (rfft2(torch.from_numpy(soft)).abs() / rfft2(torch.from_numpy(sharp)).abs())[0]
    k = rfft_grid((240, 320), 3.0).norm(dim=-1) * 6.0
    ring = (k > 0.58) & (k < 0.62)
    assert float(ratio[ring].median()) == pytest.approx(0.7, abs=0.01)


def test_a_micrograph_rendered_alone_equals_the_one_in_its_set(few_atoms):
    whole = simulate_micrographs(few_atoms, CONFIG)
    renderer = prepare_micrograph_renderer(few_atoms, CONFIG)
    alone = render_micrograph(
        renderer, whole.micrographs[1:2], whole.particles.filter(pl.col("micrograph_id") == 1)
    )
    np.testing.assert_array_equal(alone, whole.images[1])
    assert np.abs(whole.images[0] - whole.images[1]).max() > 10


def test_another_seed_gives_another_micrograph(few_atoms):
    first = simulate_micrographs(few_atoms, CONFIG)
    other = simulate_micrographs(few_atoms, dataclasses.replace(CONFIG, seed=6))
    assert first.images.shape == (2, 240, 320)
    assert np.corrcoef(first.images.ravel(), other.images.ravel())[0, 1] < 0.2


def test_bad_configurations_are_refused():
    for change in (
        {"height_px": 10},
        {"defocus_min_angst": 1e5},
        {"dose_e_per_angst2": 0.0},
        {"mtf_at_nyquist": 1.5},
    ):
        with pytest.raises(ValueError, match=r"micrograph|defocus|dose"):
            dataclasses.replace(CONFIG, **change)


def test_contamination_darkens_where_its_mask_says(few_atoms):
    config = dataclasses.replace(
        CLEAN,
        n_micrographs=1,
        shot_noise="poisson",
        contamination=ContaminationConfig(
            carbon_probability=1.0, hole_radius_angst=800.0, crystals=0, aggregates=0, tears=0
        ),
    )
    mask = contamination_of(config, 0).mask
    dirty = simulate_micrographs(few_atoms, config).images[0]
    clean = simulate_micrographs(few_atoms, dataclasses.replace(config, contamination=None)).images[
        0
    ]
    ratio = [dirty[mask == label].mean() / clean[mask == label].mean() for label in (0, 1)]
    assert ratio[0] == pytest.approx(1.0, abs=0.01)
    assert ratio[1] < 0.97
    assert contamination_of(CONFIG, 0) is None
