import pytest

from verglas.api.bench_scaling import Size


def test_an_unknown_benchmark_is_named_with_those_there_are(cli):
    answer = cli("bench", "em", "--only", "reffine")
    assert answer.code != 0
    assert "no benchmark is called 'reffine'" in answer.err
    assert "refine-O" in answer.err


def test_a_gpu_is_asked_for_in_vain(cli, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    answer = cli("bench", "em", "--gpu")
    assert answer.code != 0
    assert "no GPU that torch can use is visible" in answer.err


def test_a_folder_that_is_no_project_is_left_alone(cli, tmp_path):
    (tmp_path / "bench-em").mkdir()
    (tmp_path / "bench-em" / "notes.txt").write_text("mine")
    answer = cli("bench", "em", "--only", "reffine")
    assert answer.code != 0
    assert [path.name for path in (tmp_path / "bench-em").iterdir()] == ["notes.txt"]


@pytest.mark.slow
def test_growth_of_cost_is_printed_on_request(cli, monkeypatch, tmp_path):
    small, more, larger = Size(60, 24), Size(120, 24), Size(60, 32)
    monkeypatch.setattr("verglas.api.bench_scaling.BY_NUMBER", (small, more))
    monkeypatch.setattr("verglas.api.bench_scaling.BY_BOX", (small, larger))
    found = cli("bench", "em", "--only", "scaling", "--json").json
    assert [row["size"]["n_particles"] for row in found["scaling"]] == [60, 120, 60]
    assert {fit["stage"] for fit in found["growth"]} >= {"expectation", "maximisation", "total"}
    assert all(row["peak_mb"] >= row["start_mb"] for row in found["scaling"])
    # images and results are not left behind
    assert list((tmp_path / "bench-em").iterdir()) == []
