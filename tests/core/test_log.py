import json
import logging

from verglas.core.log import job_log, read_json_log

log = logging.getLogger("verglas.test")


def test_both_files_get_every_record(tmp_path):
    with job_log(tmp_path):
        log.info("aligned %d movies", 3)
        log.debug("not kept")
    (record,) = read_json_log(tmp_path / "log.jsonl")
    assert record["message"] == "aligned 3 movies"
    assert (record["level"], record["logger"]) == ("info", "verglas.test")
    assert record["time"].endswith("Z")
    (line,) = (tmp_path / "log.txt").read_text().splitlines()
    assert line.endswith("INFO     aligned 3 movies")


def test_log_of_a_resumed_job_goes_on(tmp_path):
    for text in ("first", "second"):
        with job_log(tmp_path):
            log.info(text)
    assert [r["message"] for r in read_json_log(tmp_path / "log.jsonl")] == ["first", "second"]


def test_nothing_is_kept_after_the_job(tmp_path):
    package = logging.getLogger("verglas")
    before = (package.level, list(package.handlers))
    with job_log(tmp_path):
        pass
    log.warning("outside")
    assert (package.level, list(package.handlers)) == before
    assert not (tmp_path / "log.txt").exists()


def test_traceback_is_kept(tmp_path):
    with job_log(tmp_path):
        try:
            raise KeyError("defocus")
        except KeyError:
            log.exception("chunk failed")
    (record,) = read_json_log(tmp_path / "log.jsonl")
    assert "KeyError: 'defocus'" in record["traceback"]
    assert "KeyError: 'defocus'" in (tmp_path / "log.txt").read_text()


def test_line_cut_by_a_crash_is_left_out(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps({"message": "a"}) + '\n{"message": "b')
    assert read_json_log(path) == [{"message": "a"}]
