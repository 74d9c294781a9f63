import sys
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from verglas.api.bench import run_case, run_cases
from verglas.api.bench_cases import CASES, select_cases
from verglas.api.bench_cost import run_tree
from verglas.api.bench_near import disturb_poses
from verglas.api.bench_peer import find_peer, run_peer
from verglas.api.bench_quality import class_errors, class_purity, fsc_in_place, pose_numbers
from verglas.api.bench_stack import Stack, open_stack
from verglas.api.project import Project
from verglas.core.errors import UserError
from verglas.engine.placement import Placement
from verglas.kernels.rotations import rotations_of_angles

EULER = ("angle_rot_deg", "angle_tilt_deg", "angle_psi_deg")


def _poses(n=80, seed=0):
    rng = np.random.default_rng(seed)
    tilt = np.degrees(np.arccos(rng.uniform(-1, 1, n)))
    angles = np.stack([rng.uniform(-180, 180, n), tilt, rng.uniform(-180, 180, n)])
    columns = dict(zip(EULER, angles, strict=True))
    shifts = rng.normal(size=(2, n)) * 3
    return pl.DataFrame(
        {"item_id": np.arange(n), "shift_x_angst": shifts[0], "shift_y_angst": shifts[1]} | columns
    )


def test_a_displacement_of_the_whole_map_is_no_error_of_shifts():
    truth = _poses()
    rotations = rotations_of_angles(truth.select(EULER).to_numpy())
    moved = rotations[:, :2] @ (5.0, -3.0, 4.0)
    found = truth.with_columns(
        shift_x_angst=pl.col("shift_x_angst") + pl.Series(moved[:, 0] + 0.1),
        shift_y_angst=pl.col("shift_y_angst") + pl.Series(moved[:, 1].copy()),
        angle_psi_deg=pl.col("angle_psi_deg") + 2.0,
    ).sample(fraction=1.0, shuffle=True, seed=1)
    numbers = pose_numbers(found, truth, "C1")
    assert numbers["n_poses"] == 80
    # one turn of all by 2 degrees cannot be undone by turning the map
    assert numbers["pose_error_median_deg"] < 2.5
    assert numbers["shift_error_median_angst"] < 0.2


def test_classes_of_one_view_have_no_spread_and_no_error():
    truth = _poses(60).with_columns(
        angle_rot_deg=pl.lit(30.0), angle_tilt_deg=(pl.col("item_id") % 2) * 70.0 + 20
    )
    found = truth.select(
        "item_id", "angle_psi_deg", class_index=pl.col("item_id") % 2
    ).with_columns(angle_psi_deg=pl.col("angle_psi_deg") + 40.0)
    numbers = class_errors(found, truth)
    assert numbers["n_classes_used"] == 2
    assert numbers["view_spread_median_deg"] < 1e-3
    assert numbers["in_plane_error_median_deg"] < 1e-3
    mixed = found.with_columns(class_index=pl.lit(0))
    assert class_errors(mixed, truth)["view_spread_median_deg"] > 20


def test_purity_does_not_depend_on_the_numbers_of_classes():
    truth = pl.DataFrame({"item_id": range(9), "class_index": [1, 1, 1, 2, 2, 2, 3, 3, 3]})
    found = truth.with_columns(class_index=pl.Series([5, 5, 0, 0, 0, 0, 7, 7, 7]))
    assert class_purity(found, truth)["purity"] == pytest.approx(8 / 9)


def test_disturbed_poses_are_as_far_off_as_wanted():
    truth = _poses(50)
    near = disturb_poses(truth, turn_deg=7.5, move_angst=1.8)
    pair = [rotations_of_angles(rows.select(EULER).to_numpy()) for rows in (truth, near)]
    traces = np.einsum("nij,nij->n", *pair)
    np.testing.assert_allclose(np.degrees(np.arccos((traces - 1) / 2)), 7.5, atol=1e-6)
    moved = [near[n].to_numpy() - truth[n].to_numpy() for n in ("shift_x_angst", "shift_y_angst")]
    np.testing.assert_allclose(np.hypot(*moved), 1.8, atol=1e-9)


def test_a_map_agrees_with_itself_and_not_with_noise():
    rng = np.random.default_rng(0)
    axis = np.arange(24) - 12
    truth = np.exp(-(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2) / 30)
    noise = rng.normal(size=truth.shape)
    assert fsc_in_place(truth * 3, truth, 2.0).min() > 0.999
    assert abs(fsc_in_place(noise, truth, 2.0)[4:].mean()) < 0.3


def test_cases_are_chosen_by_the_beginning_of_their_name():
    assert [case.name for case in select_cases(["reconstruct"])] == [
        "reconstruct-C1",
        "reconstruct-O",
    ]
    assert [case.name for case in select_cases(["refine-O"])] == ["refine-O"]
    assert len(select_cases([])) == len(CASES)
    with pytest.raises(UserError, match="no benchmark is called 'reffine'"):
        select_cases(["reffine"])


def test_time_of_children_is_counted(tmp_path):
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    code, cost = run_tree([sys.executable, "-c", parent], tmp_path, tmp_path / "log", 60.0)
    assert code == 0
    assert cost.cpu_s >= 0.3
    assert cost.peak_mb > 1


def test_a_command_that_takes_too_long_is_ended(tmp_path):
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    code, cost = run_tree(command, tmp_path, tmp_path / "log", 0.2)
    assert code < 0
    assert cost.wall_s < 30


def test_a_folder_without_stacks_is_refused(tmp_path):
    with (
        Project.create(tmp_path / "p") as project,
        pytest.raises(UserError, match=r"has no particles\.star"),
    ):
        open_stack(project, "oct48", tmp_path)


def test_a_stack_that_is_not_simulated_leaves_the_other_jobs(tmp_path):
    cases = select_cases(["classes-3D"])
    with Project.create(tmp_path / "p") as project:
        (result,) = run_cases(project, cases)
    assert result.cost is None
    assert "het48 is not simulated" in result.error


def test_relion_is_found_and_run_with_the_folder_of_the_stack(tmp_path, monkeypatch):
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (
        ("relion_refine", "echo 'RELION version: 5.0.1'"),
        ("relion_reconstruct", 'cat truth.star > /dev/null && echo "$@" > ran.txt'),
    ):
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    peer = find_peer()
    assert peer.version == "RELION version: 5.0.1"
    folder = tmp_path / "oct96"
    folder.mkdir()
    (folder / "truth.star").write_text("data_\n")
    stack = Stack("d1", "d2", "d3", "d4", folder)
    case = next(case for case in CASES if case.name == "reconstruct-O")
    cost = run_peer(peer, case, stack, tmp_path, 60.0)
    assert cost.wall_s > 0
    assert "--sym O" in (folder / "ran.txt").read_text()
    assert run_peer(peer, case, replace(stack, folder=None), tmp_path, 60.0) is None


def test_without_relion_there_is_no_peer(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_peer() is None


@pytest.mark.slow
def test_a_case_runs_and_is_judged(tmp_path):
    case = next(case for case in CASES if case.name == "reconstruct-O")
    with Project.create(tmp_path / "p", placement=Placement(where="in_process")) as project:
        stack = open_stack(project, "tiny", None)
        result = run_case(project, case, stack, workers=0)
    assert result.error == ""
    assert result.cost.cpu_s > 0
    # 60 images of 24 px of 8 A at SNR 2, 24 operators
    assert result.numbers["mean_fsc"] > 0.8
