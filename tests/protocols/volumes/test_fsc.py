import json

import numpy as np
import polars as pl
import pytest
import torch

from tests.algorithms.blobs import asymmetric_points, blob_map, with_noise
from tests.source import ROOT
from verglas.core.errors import ParamsError, PortError
from verglas.io.mrc import read_header, read_mrc, write_mrc
from verglas.model import MASKS, VOLUMES
from verglas.protocols.volumes.fsc import FscParams, Inputs, run
from verglas.sdk.testing import LocalContext, check_protocol
from verglas.simulate.atoms import Atoms
from verglas.simulate.potential import potential_volume

BOX, PIXEL = 32, 3.0
POINTS = asymmetric_points(radius_angst=22.0)
TURN = torch.linalg.matrix_exp(
    torch.tensor([[0, -0.5, 0.2], [0.5, 0, -0.9], [-0.2, 0.9, 0]], dtype=torch.float64)
).numpy()


def save(root, name, volume):
    write_mrc(root / name, volume.numpy(), PIXEL, is_stack=False)
    return name


def dataset(root, kind=VOLUMES, **columns):
    rows = pl.DataFrame({**{name: [value] for name, value in columns.items()}, "optics_group": [1]})
    optics = pl.DataFrame({"optics_group": [1], "pixel_size_angst": [PIXEL], "box_px": [BOX]})
    return LocalContext(root).dataset(kind, rows, optics=optics)


def turned_map(root, *, mirrored=False, points=POINTS, in_ice=False):
    """Write a noisy map of the turned points, and its half maps."""
    points = points @ TURN.T
    if mirrored:
        points = points * (1, 1, -1)
    if in_ice:
        atoms = Atoms.from_arrays(points, 6, 50.0)
        truth = potential_volume(atoms, box_px=BOX, pixel_size_angst=PIXEL, solvent="bulk")
    else:
        truth = blob_map(points, box=BOX, pixel_size_angst=PIXEL, sigma_angst=3.5)
    # noise 1 x the map's standard deviation in each half
    halves = [with_noise(truth, ratio=1.0, seed=seed) for seed in (1, 2)]
    return dataset(
        root,
        image_path=save(root, "map.mrc", (halves[0] + halves[1]) / 2),
        half_map_1_path=save(root, "half1.mrc", halves[0]),
        half_map_2_path=save(root, "half2.mrc", halves[1]),
    )


def atom_places():
    """Ten atoms about each point: dense enough to stand out from the ice they displace."""
    rng = np.random.default_rng(3)
    return (POINTS[:, None] + 2.0 * rng.normal(size=(len(POINTS), 10, 3))).reshape(-1, 3)


def atoms_file(root, places):
    lines = [
        f"ATOM  {i:5d}  CA  ALA A{i:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00  50.0           C"
        for i, (x, y, z) in enumerate(places + 50.0, start=1)
    ]
    (root / "model.pdb").write_text("\n".join([*lines, "END"]) + "\n")
    return "model.pdb"


def score_of(context):
    return json.loads((context.files / "score.json").read_text())[0]


def test_protocol_declares_what_it_should():
    assert check_protocol(run).id == "volumes.fsc"


@pytest.fixture(scope="module", params=[False, True])
def against_map(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("map")
    reference = blob_map(POINTS, box=BOX, pixel_size_angst=PIXEL, sigma_angst=3.5)
    context = LocalContext(root)
    inputs = Inputs(
        volumes=turned_map(root, mirrored=request.param),
        reference=dataset(root, image_path=save(root, "reference.mrc", reference)),
    )
    outputs = run(context, FscParams(search_order=2), inputs)
    return request.param, context, outputs, reference


def test_map_is_aligned_to_a_reference_in_its_hand(against_map):
    mirrored, context, outputs, reference = against_map
    score = score_of(context)
    assert score["is_mirrored"] == mirrored
    assert any("mirror image" in text for text in context.warnings) == mirrored
    # the map's points are TURN, then flipped; the pose undoes the flip first
    np.testing.assert_allclose(np.array(score["rotation_map_to_ref"]), TURN.T, rtol=0, atol=0.01)
    aligned, pixel = read_mrc(outputs.aligned.path(outputs.aligned.rows()["image_path"][0]))
    assert pixel == pytest.approx(PIXEL)
    assert np.corrcoef(aligned.ravel(), reference.numpy().ravel())[0, 1] > 0.8


def test_score_and_curves_are_complete(against_map):
    _, context, outputs, _ = against_map
    score, curves = score_of(context), outputs.curves.rows()
    assert score["fsc_05_angst"] == pytest.approx(context.metrics["fsc_05_angst"], abs=1e-3)
    assert score["fsc_0143_angst"] <= score["fsc_05_angst"] < score["other_hand_05_angst"]
    assert score["pixel_size_factor"] == pytest.approx(1, abs=0.01)
    assert score["half_0143_angst"] == pytest.approx(score["fsc_05_angst"], rel=0.15)
    labels = {"unmasked", "masked", "random phases", "corrected"}
    assert labels | {"half maps corrected", "expected from half maps"} == set(curves["label"])
    for name in ("aligned_path", "reference_path", "mask_path"):
        assert (context.root / score[name]).is_file()


def test_map_is_compared_with_an_atomic_model(tmp_path):
    places = atom_places()
    context = LocalContext(tmp_path)
    params = FscParams(atoms=atoms_file(tmp_path, places), fit_pixel_size=False, search_order=2)
    outputs = run(context, params, Inputs(volumes=turned_map(tmp_path, points=places, in_ice=True)))
    score = score_of(context)
    np.testing.assert_allclose(np.array(score["rotation_map_to_ref"]), TURN.T, rtol=0, atol=0.02)
    assert not score["is_mirrored"]
    assert score["fsc_05_angst"] < 12
    assert score["pixel_size_factor"] is None
    # the aligned map's header puts it where the model's atoms are
    path = outputs.aligned.path(outputs.aligned.rows()["image_path"][0])
    aligned, pixel = read_mrc(path)
    voxels = (places + 50.0 - np.array(read_header(path).origin_angst)) / pixel
    x, y, z = voxels.round().astype(int).T
    assert aligned[z, y, x].mean() > 3 * aligned.std()


def test_halves_are_compared_under_the_given_mask(tmp_path):
    mask = dataset(
        tmp_path, MASKS, image_path=save(tmp_path, "mask.mrc", torch.ones(BOX, BOX, BOX))
    )
    context = LocalContext(tmp_path)
    outputs = run(context, FscParams(), Inputs(volumes=turned_map(tmp_path), mask=mask))
    assert outputs.aligned is None
    assert score_of(context)["mask_fraction"] == 1
    curves = {row["label"]: row["y"] for row in outputs.curves.rows().iter_rows(named=True)}
    np.testing.assert_allclose(curves["masked"], curves["unmasked"], rtol=0, atol=1e-4)
    assert context.metrics["half_0143_angst"] < 12


def test_what_is_missing_is_named(tmp_path):
    data = turned_map(tmp_path)
    with pytest.raises(ParamsError, match="needs atoms"):
        run(LocalContext(tmp_path), FscParams(mode="model"), Inputs(volumes=data))
    with pytest.raises(PortError, match="'reference'"):
        run(LocalContext(tmp_path), FscParams(mode="map"), Inputs(volumes=data))
    bare = dataset(tmp_path, image_path="map.mrc")
    with pytest.raises(PortError, match="half_map_1_path"):
        run(LocalContext(tmp_path), FscParams(), Inputs(volumes=bare))


@pytest.mark.data
def test_haemoglobin_map_is_scored_against_its_model(tmp_path):
    shared = ROOT.parent / "shared" / "data"
    if not shared.exists():
        pytest.skip(f"needs {shared}")
    rows = pl.DataFrame({"image_path": [str(shared / "maps" / "emd_3488.map.gz")]})
    optics = pl.DataFrame({"optics_group": [1], "pixel_size_angst": [1.05], "box_px": [100]})
    context = LocalContext(tmp_path)
    data = context.dataset(
        VOLUMES, rows.with_columns(optics_group=1, symmetry=pl.lit("C2")), optics=optics
    )
    outputs = run(
        context, FscParams(atoms=str(shared / "models" / "5ni1.cif.gz")), Inputs(volumes=data)
    )
    # published at 3.2 Å
    assert score_of(context)["fsc_05_angst"] == pytest.approx(3.2, abs=0.15)
    # the aligned map lies on the model's coordinates, as the deposited one does
    path = outputs.aligned.path(outputs.aligned.rows()["image_path"][0])
    origin = np.array(read_header(path).origin_angst)
    aligned, pixel = read_mrc(path)
    deposited, _ = read_mrc(shared / "maps" / "emd_3488.map.gz")
    index = np.argwhere(deposited > 0.5 * deposited.max())[:, ::-1]
    x, y, z = ((index * 1.05 - origin) / pixel).round().astype(int).T
    values = deposited[tuple(index[:, ::-1].T)]
    assert aligned[z, y, x].mean() > 0.7 * values.mean()
