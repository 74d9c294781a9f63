"""`verglas run`: options of protocols, inputs, exit codes, going on."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.cli.conftest import PLUGIN

CLI = [sys.executable, "-c", "from verglas.cli.main import main; main()"]


def start(tmp_path, *arguments):
    """Start a command in a process of its own, as a person would."""
    environment = {**os.environ, "PYTHONPATH": str(PLUGIN), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*CLI, *arguments],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_help_lists_parameters_with_unit_and_default(toy):
    text = toy("run", "numbers.make_row", "--help").out
    assert "Make and change plain numbers." in text
    assert "--step-angst" in text
    assert "NUMBER Å" in text
    assert "[> 0; default: 1.5 Å]" in text
    assert "gives `numbers`: numbers." in text
    assert text.index("--count") < text.index("Advanced parameters") < text.index("--note")


def test_protocol_runs_and_shows_what_it_made(make):
    answer = make("numbers.make_row", "--count", "3", "--extra", "7,8", "--words", "a", "b")
    assert answer.code == 0
    assert "j1 numbers.make_row done" in answer.out
    assert "d1" in answer.out
    assert "length 4.5 Å" in answer.out


def test_underscores_do_as_well_as_dashes(make):
    assert make("numbers.make_row", "--step_angst", "2", "--json").json["changed"] == {
        "step_angst": 2.0
    }


def test_json_tells_a_script_everything(make):
    record = make("numbers.make_row", "--count", "3", "--json").json
    assert record["id"] == "j1"
    assert record["status"] == "done"
    assert record["metrics"]["length_angst"] == 4.5
    (output,) = record["outputs"]
    assert (output["port"], output["dataset"], output["n_items"]) == ("numbers", "d1", 3)


def test_equal_job_is_not_run_again_unless_forced(make):
    assert make("numbers.make_row", "--json").json["id"] == "j1"
    assert make("numbers.make_row", "--json").json["id"] == "j1"
    assert make("numbers.make_row", "--json", "--force").json["id"] == "j2"


@pytest.mark.parametrize("data", ["numbers=d1", "numbers=j1.numbers", "numbers=j1", "j1", "d1"])
def test_input_is_named_by_data_set_or_job(make, data):
    make("numbers.make_row")
    answer = make("numbers.change_all", "--input", data, "--json")
    assert answer.json["inputs"] == [{"port": "numbers", "dataset": "d1"}]


def test_job_with_several_outputs_gives_the_one_named_like_the_port(make):
    make("numbers.make_row")
    make("numbers.change_all", "-i", "j1")
    assert make("numbers.change_all", "-i", "j2", "--json").json["inputs"][0]["dataset"] == "d2"


def test_parameter_with_the_name_of_an_option_keeps_it(make):
    make("numbers.make_row")
    record = make(
        "numbers.change_all", "-i", "d1", "--label", "mine", "--job-label", "job", "--json"
    ).json
    assert record["parameters"]["label"] == "mine"
    assert record["label"] == "job"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["numbers.make_row", "--cuont", "3"], "did you mean --count?"),
        (["numbers.make_row", "--step", "3"], "did you mean --step-angst?"),
        (["numbers.make_row", "--step", "3"], "numbers.make_row has no parameter 'step'"),
        (["numbers.make_row", "stray"], "'stray' belongs to no option"),
        (["numbers.make_row", "--count", "-1"], "count: got -1, expected >= 0"),
        (["numbers.make_row", "--count", "many"], "count: got 'many', expected"),
        (["numbers.make_row", "--step-angst", "0"], "step_angst: got 0.0 Å, expected > 0"),
        (["numbers.make_rows"], "did you mean numbers.make_row"),
        (["numbers.change_all", "--mode", "cube"], "expected 'square', 'root'"),
        (["numbers.change_all"], "port 'numbers' of numbers.change_all is empty"),
        (["numbers.change_all", "--numbers", "d1"], "give it as -i numbers=DATA"),
        (["numbers.change_all", "-i", "d9"], "has no data set 'd9'"),
        (["numbers.change_all", "-i", "number=d1"], "its ports are numbers, more"),
        (["numbers.change_all", "-i", "a/b.star"], "no file 'a/b.star'"),
    ],
)
def test_wrong_use_says_what_and_what_to_do(make, arguments, message):
    answer = make(*arguments)
    assert answer.code == 2
    assert message in answer.err
    assert "Traceback" not in answer.err


def test_wrong_use_leaves_no_job(make, toy):
    make("numbers.make_row", "--count", "-1")
    assert toy("jobs", "--json").json == []


def test_failed_job_exits_with_1_and_says_how_to_go_on(make):
    make("numbers.make_row")
    answer = make("numbers.change_all", "-i", "d1", "--mode", "fail")
    assert answer.code == 1
    assert "j2 (numbers.change_all) failed" in answer.err
    assert "cannot take these" in answer.err
    assert "verglas log j2" in answer.err


def test_job_that_the_data_make_impossible_exits_with_1(make):
    make("numbers.make_row")
    answer = make("numbers.change_all", "-i", "d1", "--mode", "refuse")
    assert answer.code == 1
    assert "these are not numbers" in answer.err


def test_item_that_is_left_out_is_a_warning(make):
    make("numbers.make_row", "--extra", "-4")
    answer = make("numbers.change_all", "-i", "d1", "--mode", "root")
    assert answer.code == 0
    assert "warning: item 5 left out: -4.0 is negative" in answer.err


def test_finished_job_is_not_resumed(make, toy):
    make("numbers.make_row")
    assert toy("run", "j1", "--json").json["status"] == "done"
    assert "every job is finished" in toy("run", "--resume").out


def test_run_without_anything_shows_help(toy):
    assert "Usage" in "".join(vars(toy("run"))[name] for name in ("out", "err"))


@pytest.mark.slow
def test_interrupted_job_exits_with_130_and_goes_on(toy, make, tmp_path):
    make("numbers.make_row", "--count", "8")
    arguments = ["run", "numbers.change_all", "-p", "p", "-i", "d1", "--pause-s", "0.3"]
    process = start(tmp_path, *arguments, "--workers", "1")
    chunks = tmp_path / "p/jobs/0002-change_all/chunks/change"
    deadline_s = time.monotonic() + 60
    while not list(chunks.glob("*.zip")) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "go on with: verglas run j2" in err
    kept = {path.name: path.stat().st_mtime_ns for path in chunks.glob("*.zip")}
    assert kept
    record = toy("run", "--resume", "--json", "--workers", "0").json
    assert (record["id"], record["status"]) == ("j2", "done")
    after = {path.name: path.stat().st_mtime_ns for path in chunks.glob("*.zip")}
    assert {name: after[name] for name in kept} == kept


@pytest.mark.slow
def test_worker_processes_run_the_plugin(toy, make):
    make("numbers.make_row", "--count", "4")
    assert toy("run", "numbers.change_all", "-i", "d1", "--workers", "1").code == 0


def test_no_workers_means_none(make, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a cluster was asked for")

    monkeypatch.setattr("verglas.engine.cluster.LocalCluster", refuse)
    made = make("numbers.make_row", "--count", "3", "--json").json
    answer = make("numbers.change_all", "-i", f"numbers={made['outputs'][0]['dataset']}")
    assert answer.code == 0, answer.err
