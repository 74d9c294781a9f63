import pickle

import pytest

from verglas.core import errors
from verglas.core.errors import EngineError, ParamsError, TaskLost, UserError, VerglasError

ALL = [getattr(errors, name) for name in errors.__all__]


def test_hint_follows_the_message():
    error = UserError("box_px must be even: got 65", "try 64")
    assert str(error) == "box_px must be even: got 65; try 64"
    assert (error.message, error.hint) == ("box_px must be even: got 65", "try 64")


def test_message_stands_alone_without_hint():
    assert str(TaskLost("worker 3 vanished")) == "worker 3 vanished"


@pytest.mark.parametrize("kind", ALL)
def test_errors_survive_the_way_home_from_a_worker(kind):
    again = pickle.loads(pickle.dumps(kind("what", "do this")))
    assert type(again) is kind
    assert str(again) == "what; do this"


def test_users_and_engines_errors_are_apart():
    assert issubclass(ParamsError, UserError)
    assert issubclass(TaskLost, EngineError)
    assert not issubclass(EngineError, UserError)
    assert all(issubclass(kind, VerglasError) for kind in ALL)
    # pydantic would swallow these inside validators
    assert not any(issubclass(kind, ValueError | AssertionError) for kind in ALL)
