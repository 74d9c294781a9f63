from hypothesis import given
from hypothesis import strategies as st

from verglas.model import COLUMNS, TRAITS
from verglas.model.traits import missing_columns, traits_of

column_sets = st.sets(st.sampled_from(sorted(COLUMNS)))


def test_traits_follow_from_columns():
    pose = set(TRAITS["pose3d"].columns)
    assert traits_of(pose) == {"pose3d"}
    assert traits_of(pose - {"angle_rot_deg"}) == frozenset()
    assert "pose2d" in traits_of(pose | {"class_index"})


def test_missing_columns_are_listed_by_trait():
    assert missing_columns({"defocus_u_angst", "score"}, ("score", "ctf")) == {
        "ctf": ["defocus_v_angst", "defocus_angle_deg", "phase_shift_deg"]
    }


@given(column_sets)
def test_a_trait_is_there_when_nothing_of_it_is_missing(columns):
    assert traits_of(columns) == set(TRAITS) - set(missing_columns(columns, TRAITS))


@given(column_sets, column_sets)
def test_more_columns_never_lose_a_trait(columns, others):
    assert traits_of(columns) <= traits_of(columns | others)
