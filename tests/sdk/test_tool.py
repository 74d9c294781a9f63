import pytest

from verglas.core.errors import ToolError
from verglas.sdk.tool import Command, Tool, run_command

SHELL = Tool("shell", "sh")


def sh(text, folder, **options):
    return run_command(SHELL, Command(("-c", text), folder, **options))


def test_program_runs_in_its_folder_with_its_environment(tmp_path):
    done = sh("pwd; echo $CS; cat", tmp_path / "new", environment={"CS": "2.7"}, stdin="asked")
    assert done.output.splitlines() == [str(tmp_path / "new"), "2.7", "asked"]
    assert done.time_s >= 0


def test_both_streams_are_kept(tmp_path):
    assert sh("echo a; echo b >&2", tmp_path).output == "a\nb\n"


def test_failure_tells_code_and_last_lines(tmp_path):
    with pytest.raises(ToolError, match=r"shell exited with 2 after 0 s; last lines: 3 \| 4 \| 5"):
        sh("for i in 1 2 3 4 5 6 7; do echo $i; done; exit 2", tmp_path)


def test_killed_program_hints_at_memory(tmp_path):
    with pytest.raises(ToolError, match=r"exited with -9 \(killed: out of memory\?\)"):
        sh("kill -9 $$", tmp_path)


def test_program_that_hangs_is_stopped(tmp_path):
    with pytest.raises(ToolError, match=r"did not end within 0.1 s"):
        run_command(Tool("sleep", "sleep"), Command(("5",), tmp_path, timeout_s=0.1))


def test_missing_program_comes_with_advice():
    tool = Tool("ctffind", "no-such-ctffind", advice="install cisTEM")
    with pytest.raises(ToolError, match="no 'no-such-ctffind' on the search path; install cisTEM"):
        tool.find()


def test_output_that_is_no_text_does_no_harm(tmp_path):
    assert "ok" in sh(r"printf '\377\376ok'", tmp_path).output
