import numpy as np
import polars as pl
import pytest
import torch

from tests.protocols.refine3d.mixed import two_structures
from tests.protocols.simulated import BOX, OPTICS, particles_of, simulated, volumes_of
from verglas.algorithms.em.classify import ClassifyConfig
from verglas.algorithms.em.refine_state import RefineConfig
from verglas.algorithms.pose_error import compare_poses
from verglas.api.exchange import export
from verglas.core.errors import PortError
from verglas.io.mrc import read_mrc, write_mrc
from verglas.io.star import read_star
from verglas.kernels.masks import soft_sphere
from verglas.model import MASKS, make_dataset
from verglas.protocols.refine3d._class_loop import Found, state_of_maps
from verglas.protocols.refine3d._class_maps import class_volumes
from verglas.protocols.refine3d.classify_3d import Classify3dParams, Inputs, run
from verglas.sdk.testing import LocalContext, check_protocol
from verglas.simulate.particles import optics_table

KEPT = Classify3dParams(
    n_classes=2,
    align=False,
    n_seeds=2,
    diameter_angst=150,
    split_resolution_angst=30,
    max_resolution_angst=15,
    max_iterations=2,
)
SOUGHT = KEPT.model_copy(update={"align": True})


def _purity(found, truth):
    both = found.select("item_id", "class_index").join(truth, on="item_id")
    same = float((both["class_index"] == both["state"]).mean())
    return max(same, 1 - same)


def _mask(root, array):
    write_mrc(
        root / "m.mrc", np.asarray(array, np.float32), OPTICS.pixel_size_angst, is_stack=False
    )
    rows = pl.DataFrame({"image_path": ["m.mrc"], "image_slice": [0], "optics_group": [1]})
    return make_dataset(MASKS, rows, root=root, optics=optics_table(OPTICS, len(array)))


def test_classify_3d_keeps_the_contract():
    check_protocol(run)


def test_two_structures_are_told_apart_at_known_poses(tmp_path):
    made, truth, _ = two_structures("asymmetric", 1.0)
    ctx = LocalContext(tmp_path)
    out = run(ctx, KEPT, Inputs(particles=particles_of(tmp_path, made, keep_poses=True)))
    found, maps = out.particles.rows(), out.volumes.rows()
    # 160 images of 36 px of 5 A at SNR 1; a fifth of the atoms missing in half of them
    assert _purity(found, truth) > 0.9
    assert maps.height == 2
    assert maps["n_particles"].sum() == 160
    assert abs(maps["class_fraction"].sum() - 1) < 1e-9
    assert ctx.metrics["gain_loglik"] > 0.5
    volumes = [read_mrc(tmp_path / path)[0] for path in maps["image_path"]]
    change = np.square(volumes[0] - volumes[1]).sum((1, 2))
    # the missing atoms lie more than 20 Å above the middle
    assert change[BOX // 2 + 3 :].sum() > 2 * change[: BOX // 2 + 3].sum()


def test_classes_and_poses_are_found_from_one_map(tmp_path):
    made, truth, volume = two_structures("apoferritin", 1.0)
    inputs = Inputs(
        particles=particles_of(tmp_path, made), reference=volumes_of(tmp_path, volume * 9.0)
    )
    params = SOUGHT.model_copy(update={"symmetry": "O", "initial_low_pass_angst": 25.0})
    ctx = LocalContext(tmp_path)
    out = run(ctx, params, inputs)
    found = out.particles.rows().sort("item_id")
    angles = ("angle_rot_deg", "angle_tilt_deg", "angle_psi_deg")
    true = made.table.sort("item_id").select(angles).to_numpy()
    errors = compare_poses(found.select(angles).to_numpy(), true, symmetry="O").errors_deg
    # 160 images of 36 px of 5 A at SNR 1, data to 15 A
    assert np.median(errors) < 5
    assert _purity(found, truth) > 0.85
    assert found["half_set"].n_unique() == 2
    assert ctx.metrics["angle_sd_deg"] > 0


def test_one_structure_is_not_divided_without_a_warning(tmp_path):
    made = simulated("asymmetric", 120, 1.0)
    ctx = LocalContext(tmp_path)
    run(ctx, KEPT, Inputs(particles=particles_of(tmp_path, made, keep_poses=True)))
    # 120 images of 36 px of 5 A at SNR 1
    assert ctx.metrics["gain_loglik"] <= 0
    assert any("do not support" in text for text in ctx.warnings)
    # starts that find nothing agree, which is no evidence; and nothing is followed
    assert "agreement" not in ctx.metrics
    assert ctx.metrics["iterations"] == 1


def test_classes_are_exported_for_relion_counted_from_one(tmp_path):
    made, _, _ = two_structures("asymmetric", 1.0)
    particles = particles_of(tmp_path, made, keep_poses=True)
    out = run(
        LocalContext(tmp_path),
        KEPT.model_copy(update={"n_seeds": 1, "max_iterations": 1}),
        Inputs(particles=particles),
    )
    export(out.particles, tmp_path / "out" / "classes.star", form="relion")
    written = read_star(tmp_path / "out" / "classes.star")["particles"]
    found = out.particles.rows()
    assert written["rlnClassNumber"].cast(int).to_list() == (found["class_index"] + 1).to_list()
    slices = [int(text.partition("@")[0]) - 1 for text in written["rlnImageName"]]
    assert slices == found["image_slice"].to_list()
    assert {"rlnAngleRot", "rlnOriginXAngst", "rlnRandomSubset"} <= set(written.columns)


def test_classes_differ_only_inside_a_small_mask(tmp_path):
    made, truth, _ = two_structures("asymmetric", 1.0)
    inside = torch.roll(soft_sphere(BOX, 6.0, 3.0), BOX // 4, 0)
    inputs = Inputs(
        particles=particles_of(tmp_path, made, keep_poses=True), mask=_mask(tmp_path, inside)
    )
    out = run(LocalContext(tmp_path), KEPT, inputs)
    volumes = [read_mrc(tmp_path / path)[0] for path in out.volumes.rows()["image_path"]]
    change = np.square(volumes[0] - volumes[1])
    # the missing atoms lie more than 20 Å above the middle, as the mask does
    assert change[inside.numpy() == 0].sum() < 0.02 * change.sum()
    assert _purity(out.particles.rows(), truth) > 0.85


def test_a_reference_is_needed_to_align(tmp_path):
    made, _, _ = two_structures("asymmetric", 1.0)
    with pytest.raises(PortError, match="needs a reference"):
        run(LocalContext(tmp_path), SOUGHT, Inputs(particles=particles_of(tmp_path, made)))


def test_poses_are_needed_where_they_are_kept(tmp_path):
    made, _, _ = two_structures("asymmetric", 1.0)
    with pytest.raises(PortError, match="angle_rot_deg"):
        run(LocalContext(tmp_path), KEPT, Inputs(particles=particles_of(tmp_path, made)))


def test_a_map_is_not_taken_for_a_mask(tmp_path):
    made, _, volume = two_structures("asymmetric", 1.0)
    particles = particles_of(tmp_path, made, keep_poses=True)
    with pytest.raises(PortError, match="must go from 0 to 1"):
        run(
            LocalContext(tmp_path),
            KEPT,
            Inputs(particles=particles, mask=_mask(tmp_path, np.asarray(volume) * 9)),
        )


def test_a_mask_of_another_extent_is_refused_with_both_widths(tmp_path):
    made, _, _ = two_structures("asymmetric", 1.0)
    particles = particles_of(tmp_path, made, keep_poses=True)
    with pytest.raises(PortError, match="120 Å wide, the particles' box 180 Å"):
        run(
            LocalContext(tmp_path),
            KEPT,
            Inputs(particles=particles, mask=_mask(tmp_path, np.ones((24,) * 3))),
        )


def test_a_mask_beside_the_particle_is_refused(tmp_path):
    made, _, volume = two_structures("asymmetric", 1.0)
    corner = np.zeros((BOX,) * 3)
    corner[:4, :4, :4] = 1
    inputs = Inputs(
        particles=particles_of(tmp_path, made, keep_poses=True),
        reference=volumes_of(tmp_path, volume),
        mask=_mask(tmp_path, corner),
    )
    with pytest.raises(PortError, match="of the reference's power"):
        run(LocalContext(tmp_path), KEPT, inputs)


def test_images_in_both_halves_are_refused_and_counted(tmp_path):
    made, _, _ = two_structures("asymmetric", 1.0)
    particles = particles_of(tmp_path, made, keep_poses=True)
    rows = particles.rows(("item_id", "image_path"))
    copied = rows.with_columns(
        image_slice=pl.int_range(pl.len(), dtype=pl.Int64) % 150,
        half_set=(pl.int_range(pl.len()) >= 150).cast(pl.Int8) + 1,
    )
    with pytest.raises(PortError, match="10 images are in both half sets"):
        run(LocalContext(tmp_path), KEPT, Inputs(particles=particles.with_columns(copied)))


def test_too_few_particles_for_halves_are_refused(tmp_path):
    made, _, _ = two_structures("asymmetric", 1.0)
    particles = particles_of(tmp_path, made, keep_poses=True)
    few = particles.select(particles.rows(("item_id",)).head(30))
    with pytest.raises(PortError, match="at least 40 particles for two halves: got 30"):
        run(LocalContext(tmp_path), KEPT, Inputs(particles=few))


def test_images_that_are_not_finite_are_left_out_and_named(tmp_path):
    made, _, _ = two_structures("asymmetric", 1.0)
    particles = particles_of(tmp_path, made, keep_poses=True)
    header_bytes, pixel = 1024, (7 * BOX + 3) * BOX + 3
    stored = np.memmap(tmp_path / "p.mrcs", "<f4", "r+", offset=header_bytes)
    stored[pixel] = np.nan
    stored.flush()
    ctx = LocalContext(tmp_path)
    out = run(ctx, KEPT.model_copy(update={"n_seeds": 1}), Inputs(particles=particles))
    assert out.particles.n_items == 159
    assert any("not finite" in text for text in ctx.warnings)


def test_an_empty_class_is_named_and_has_no_map(tmp_path):
    made = simulated("asymmetric", 120, 1.0)
    refine = RefineConfig(BOX, OPTICS.pixel_size_angst, 130.0)
    maps = list(torch.randn(3, 12, 12, 12, generator=torch.Generator().manual_seed(0)))
    state = state_of_maps(refine, maps, torch.ones(1, 8))
    rows = pl.DataFrame({"item_id": range(5), "class_index": [2, 2, 0, 2, 0]})
    ctx = LocalContext(tmp_path)
    config = ClassifyConfig(refine, 3, align=False)
    volumes = class_volumes(ctx, particles_of(tmp_path, made), config, Found(state, rows)).rows()
    assert volumes["class_index"].to_list() == [2, 0]
    assert volumes["n_particles"].to_list() == [3, 2]
    assert any("class 1 is empty" in text for text in ctx.warnings)
