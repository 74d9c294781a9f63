def test_an_unknown_benchmark_is_named_with_those_there_are(cli):
    answer = cli("bench", "em", "--only", "reffine")
    assert answer.code != 0
    assert "no benchmark is called 'reffine'" in answer.err
    assert "refine-O" in answer.err


def test_a_gpu_is_asked_for_in_vain(cli, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    answer = cli("bench", "em", "--gpu")
    assert answer.code != 0
    assert "no GPU is visible" in answer.err


def test_a_folder_that_is_no_project_is_left_alone(cli, tmp_path):
    (tmp_path / "bench-em").mkdir()
    (tmp_path / "bench-em" / "notes.txt").write_text("mine")
    answer = cli("bench", "em", "--only", "reffine")
    assert answer.code != 0
    assert [path.name for path in (tmp_path / "bench-em").iterdir()] == ["notes.txt"]
