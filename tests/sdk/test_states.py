import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verglas.sdk.states import checkpoint_folder, load_last_state, save_state

values = st.one_of(
    st.integers(-(2**60), 2**60), st.floats(allow_nan=False), st.text(max_size=9), st.booleans()
)


@given(st.dictionaries(st.text("abc", min_size=1), values), st.integers(0, 99))
def test_state_is_loaded_as_saved(tmp_path_factory, plain, iteration):
    folder = tmp_path_factory.mktemp("states")
    state = {**plain, "volume": np.arange(3, dtype=np.complex64), "n": np.float32(0.5)}
    save_state(folder, iteration, state)
    done, got = load_last_state(folder)
    assert done == iteration
    np.testing.assert_array_equal(got.pop("volume"), state.pop("volume"))
    assert got == state
    assert [type(got[name]) for name in plain] == [type(value) for value in plain.values()]


def test_last_two_states_are_kept(tmp_path):
    for i in range(1, 5):
        save_state(tmp_path, i, {"n": i})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000003.zip", "000004.zip"]
    assert load_last_state(tmp_path) == (4, {"n": 4})


def test_damaged_state_falls_back_to_the_one_before(tmp_path):
    for i in (1, 2):
        save_state(tmp_path, i, {"n": i, "a": np.ones(9)})
    path = tmp_path / "000002.zip"
    path.write_bytes(path.read_bytes()[:200])
    assert load_last_state(tmp_path)[0] == 1


def test_no_state_is_none(tmp_path):
    assert load_last_state(tmp_path / "nothing") is None


def test_what_cannot_be_stored_is_named(tmp_path):
    with pytest.raises(TypeError, match="got 'poses' of list"):
        save_state(tmp_path, 1, {"poses": [1, 2]})
    assert list(tmp_path.iterdir()) == []


def test_folder_depends_on_how_the_loop_began(tmp_path):
    def name(identity="j", **state):
        return checkpoint_folder(tmp_path, name="01-step", identity=identity, state=state).name

    assert name(n=1, a=np.ones(2)) == name(a=np.ones(2), n=1)
    others = {name(n=1), name(n=2), name(n=1, a=np.ones(2)), name("k", n=1)}
    assert len(others) == 4
    assert all(other.startswith("01-step-") for other in others)
