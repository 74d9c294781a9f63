"""Bars and lines for running jobs."""

from dataclasses import replace

import pytest

from verglas.cli._console import err
from verglas.cli._progress import BarView, LineView, progress_shown
from verglas.engine.progress import ProgressUpdate

UPDATE = ProgressUpdate("j1", "estimate", done=0, total=100)


class Clock:
    """A clock that a test sets."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


def lines_of(capsys):
    return capsys.readouterr().err.splitlines()


def shown(view, clock, updates):
    for now_s, done in updates:
        clock.now_s = now_s
        view.show(replace(UPDATE, done=done))


def test_quick_step_writes_no_line(capsys):
    clock = Clock()
    shown(LineView(clock), clock, [(0.0, 0), (1.0, 50), (1.9, 100)])
    assert lines_of(capsys) == []


def test_line_has_count_rate_and_time_left(capsys):
    clock = Clock()
    shown(LineView(clock), clock, [(0.0, 0), (10.0, 50)])
    assert lines_of(capsys) == ["j1 estimate: 50 of 100 (50 %), 5/s, 10 s left"]


@pytest.mark.parametrize(
    ("updates", "n_lines"),
    [
        ([(0, 0), (3, 5), (4, 50), (5, 60)], 1),  # not oftener than every five seconds
        ([(0, 0), (3, 0), (10, 1), (20, 2), (30, 3)], 1),  # nor before a tenth more is done
        ([(0, 0), (3, 0), (34, 1), (65, 2)], 3),  # but every half minute
        ([(0, 0), (10, 20), (20, 40), (30, 60)], 3),
    ],
)
def test_lines_are_few(capsys, updates, n_lines):
    clock = Clock()
    shown(LineView(clock), clock, updates)
    assert len(lines_of(capsys)) == n_lines


def test_step_that_starts_over_has_its_own_rate(capsys):
    clock = Clock()
    shown(LineView(clock), clock, [(0, 0), (10, 100), (10.5, 0), (20.5, 20)])
    assert lines_of(capsys)[-1] == "j1 estimate: 20 of 100 (20 %), 2/s, 40 s left"


def test_bar_appears_after_two_seconds_and_goes_away(monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    clock = Clock()
    view = BarView(clock)
    shown(view, clock, [(1.0, 10)])
    assert view._progress is None
    shown(view, clock, [(3.0, 20)])
    (task,) = view._progress.tasks
    assert (task.completed, task.total, task.description) == (20, 100, "estimate")
    assert "left" in task.fields["details"]
    clock.now_s = 4.0
    view.show(ProgressUpdate("j1", "particles.refine_3d", 1, 20, text="iteration 1"))
    assert len(view._progress.tasks) == 2
    view.show(ProgressUpdate("j1", "expectation", 1, 20))
    assert [t.description for t in view._progress.tasks] == ["refine 3d", "expectation"]
    view.close()
    assert view._progress is None


def test_lines_are_written_where_there_is_no_terminal(capsys):
    assert not err().is_terminal
    with progress_shown() as show:
        assert isinstance(show.__self__, LineView)
    with progress_shown(is_quiet=True) as show:
        show(UPDATE)
    assert lines_of(capsys) == []
