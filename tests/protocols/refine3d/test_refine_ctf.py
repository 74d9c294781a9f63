import dataclasses

import numpy as np
import polars as pl
import pytest

from tests.algorithms.atom_images import Scene, make_scenery
from verglas.algorithms.aberrations import Aberrations, coma_per_mrad
from verglas.algorithms.image_tables import aberration_tables
from verglas.algorithms.reconstruct import (
    ReconstructConfig,
    add_images,
    empty_sums,
    make_maps,
    stored_sums,
)
from verglas.core.errors import PortError
from verglas.io.mrc import write_mrc
from verglas.model import PARTICLES, VOLUMES, make_dataset
from verglas.protocols.refine3d.refine_ctf import Inputs, RefineCtfParams, run
from verglas.sdk.testing import LocalContext, check_protocol, check_resume

MRAD = 0.8
COMA = coma_per_mrad(300.0, 2.7) * MRAD
TRUTH = Aberrations((0.0, 2 * COMA, 0.0, 0.0, COMA, 0.0))
SCENE = Scene(box=40, pixel=2.0, n=120, radius=26.0, sigma=0.8, n_atoms=60, snr=0.3)
PARAMS = RefineCtfParams(max_resolution_angst=4.2, rounds=1)


def _odd(kx, ky):
    return TRUTH.odd_phase_rad(np.stack(np.broadcast_arrays(kx, ky), -1))


MADE = make_scenery(dataclasses.replace(SCENE, odd=_odd))


def _optics(**columns):
    return pl.DataFrame(
        {
            "optics_group": [1],
            "pixel_size_angst": [2.0],
            "voltage_kv": [300.0],
            "spherical_aberration_mm": [2.7],
            "amplitude_contrast": [0.1],
        }
        | columns
    )


def _inputs(root, off=None, **columns):
    root.mkdir(parents=True, exist_ok=True)
    write_mrc(root / "p.mrcs", MADE.pictures, 2.0, is_stack=True)
    images, n = MADE.images, SCENE.n
    off = np.zeros(n) if off is None else off
    rows = {
        "item_id": np.arange(n),
        "image_path": ["p.mrcs"] * n,
        "image_slice": np.arange(n),
        "optics_group": [1] * n,
        "micrograph_id": np.arange(n) // 60,
        "defocus_u_angst": images.defocus_u_angst + off,
        "defocus_v_angst": images.defocus_v_angst + off,
        "defocus_angle_deg": images.defocus_angle_deg,
        "phase_shift_deg": np.zeros(n),
        "shift_x_angst": images.shift_angst[:, 0],
        "shift_y_angst": images.shift_angst[:, 1],
        "half_set": np.arange(n) % 2 + 1,
    }
    names = ("angle_rot_deg", "angle_tilt_deg", "angle_psi_deg")
    rows |= dict(zip(names, MADE.angles.T, strict=True)) | columns
    particles = make_dataset(PARTICLES, pl.DataFrame(rows), root=root, optics=_optics())
    write_mrc(root / "v.mrc", MADE.volume.astype(np.float32) * 3, 2.0, is_stack=False)
    volume = pl.DataFrame(
        {
            "image_path": ["v.mrc"],
            "image_slice": [0],
            "half_map_1_path": ["v.mrc"],
            "half_map_2_path": ["v.mrc"],
            "optics_group": [1],
        }
    )
    return Inputs(
        particles=particles, volumes=make_dataset(VOLUMES, volume, root=root, optics=_optics())
    )


def test_refine_ctf_keeps_the_contract():
    check_protocol(run)


def test_defocus_and_beam_tilt_of_particles_are_found(tmp_path):
    off = np.random.default_rng(0).normal(size=SCENE.n) * 200
    ctx = LocalContext(tmp_path)
    params = PARAMS.model_copy(update={"rounds": 2})
    out = run(ctx, params, _inputs(tmp_path, off)).particles
    rows = out.rows().sort("item_id")
    error = rows["defocus_u_angst"].to_numpy() - MADE.images.defocus_u_angst
    # 120 images of 40 px of 2 A at SNR 0.3, from 200 A off; the true map, three times too strong
    limit = rows["defocus_std_angst"].to_numpy()
    assert np.sqrt(np.square(error).mean()) < 1.25 * np.sqrt(np.square(limit).mean())
    assert np.sqrt(np.square(error).mean()) < 80
    tilt = out.optics.select("beam_tilt_x_mrad", "beam_tilt_y_mrad").row(0)
    np.testing.assert_allclose(tilt, (MRAD, 0.0), atol=0.1)
    assert not {"even_zernike", "magnification_00"} & set(out.optics.columns)
    assert ctx.metrics["beam_tilt_x_mrad"] == pytest.approx(tilt[0], abs=1e-3)


def test_astigmatism_of_micrographs_is_found(tmp_path):
    # every particle of a micrograph gets the same wrong astigmatism
    params = PARAMS.model_copy(update={"defocus": "micrograph", "astigmatism": True, "rounds": 2})
    images = MADE.images
    half = (images.defocus_u_angst - images.defocus_v_angst) / 2
    angle = np.radians(2 * images.defocus_angle_deg)
    vector = np.stack([half * np.cos(angle) + 150, half * np.sin(angle)])
    mean = (images.defocus_u_angst + images.defocus_v_angst) / 2 + 100
    wrong = np.hypot(*vector)
    inputs = _inputs(
        tmp_path,
        defocus_u_angst=mean + wrong,
        defocus_v_angst=mean - wrong,
        defocus_angle_deg=np.degrees(np.arctan2(*vector[::-1])) / 2,
    )
    rows = run(LocalContext(tmp_path), params, inputs).particles.rows().sort("item_id")
    found = (rows["defocus_u_angst"] + rows["defocus_v_angst"]).to_numpy() / 2
    # two micrographs of 60 particles: 20 A of defocus, 40 A of astigmatism
    assert np.abs(found - (mean - 100)).max() < 20
    half = ((rows["defocus_u_angst"] - rows["defocus_v_angst"]) / 2).to_numpy()
    angle = np.radians(2 * rows["defocus_angle_deg"].to_numpy())
    true = vector - [[150], [0]]
    assert np.abs(np.stack([half * np.cos(angle), half * np.sin(angle)]) - true).max() < 40


def test_a_resumed_refinement_equals_one_in_one_go(tmp_path):
    check_resume(run, _inputs, PARAMS, tmp_path)


def test_nothing_asked_for_changes_nothing(tmp_path):
    params = PARAMS.model_copy(update={"defocus": "none", "beam_tilt": False})
    inputs = _inputs(tmp_path)
    out = run(LocalContext(tmp_path), params, inputs).particles
    assert out.rows().sort("item_id").equals(inputs.particles.rows().sort("item_id"))
    assert out.optics.equals(inputs.particles.optics)


def test_maps_of_another_box_are_refused(tmp_path):
    inputs = _inputs(tmp_path)
    write_mrc(tmp_path / "v.mrc", np.zeros((20, 20, 20), np.float32), 2.0, is_stack=False)
    with pytest.raises(PortError, match="half maps are 20 px"):
        run(LocalContext(tmp_path), PARAMS, inputs)


def test_particles_without_half_set_are_refused(tmp_path):
    inputs = _inputs(tmp_path, half_set=[None, *([1] * (SCENE.n - 1))])
    with pytest.raises(PortError, match="lack a pose or a half set"):
        run(LocalContext(tmp_path), PARAMS, inputs)


def _maps_of(root, off):
    """Half maps made with a wrong defocus, as a first reconstruction has them."""
    config = ReconstructConfig(SCENE.box, SCENE.pixel)
    tables = aberration_tables([Aberrations()], config.box, config.extent_angst)
    wrong = {f"defocus_{x}_angst": getattr(MADE.images, f"defocus_{x}_angst") + off for x in "uv"}
    images = dataclasses.replace(MADE.images, **wrong)
    for half in (1, 2):
        chosen = np.arange(half - 1, SCENE.n, 2)
        sums = empty_sums(config)
        add_images(sums, MADE.pictures[chosen], images.take(chosen), config, tables)
        maps = make_maps({1: stored_sums(sums)}, config, regularise=False)
        write_mrc(root / f"h{half}.mrc", maps.full, SCENE.pixel, is_stack=False)


def test_an_image_does_not_agree_with_its_own_noise_in_the_map(tmp_path):
    off = np.random.default_rng(1).normal(size=SCENE.n) * 300
    inputs = _inputs(tmp_path, off)
    _maps_of(tmp_path, off)
    volume = inputs.volumes.rows().with_columns(
        half_map_1_path=pl.lit("h1.mrc"), half_map_2_path=pl.lit("h2.mrc")
    )
    inputs = Inputs(
        particles=inputs.particles,
        volumes=make_dataset(VOLUMES, volume, root=tmp_path, optics=_optics()),
    )
    params = PARAMS.model_copy(update={"beam_tilt": False})
    rows = run(LocalContext(tmp_path), params, inputs).particles.rows().sort("item_id")
    error = rows["defocus_u_angst"].to_numpy() - MADE.images.defocus_u_angst
    said = np.sqrt(np.square(rows["defocus_std_angst"].to_numpy()).mean())
    # 60 images a half: each is a large part of its map, and would stay where it is
    assert np.sqrt(np.square(error).mean()) < 0.7 * np.sqrt(np.square(off).mean())
    assert np.sqrt(np.square(error).mean()) < 1.4 * said
