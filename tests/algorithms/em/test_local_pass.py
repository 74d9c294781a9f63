import torch

from verglas.algorithms.em.local_pass import Amplitudes


def _amplitudes(explained):
    explained = torch.tensor(explained, dtype=torch.float64)
    return Amplitudes(cross=explained.sqrt(), power=torch.ones_like(explained), total=explained + 1)


def test_the_first_climb_stops_where_most_of_the_signal_is_told():
    assert _amplitudes([9.0, 50.0, 40.0, 6.0, 3.0, 1.0]).informed_radius() == 3
    # what lies in shell 0 is the mean grey value and says nothing of poses
    assert _amplitudes([900.0, 1.0, 1.0, 1.0, 1.0, 1.0]).informed_radius() == 5


def test_a_map_that_explains_nothing_still_has_a_radius():
    assert _amplitudes([0.0] * 6).informed_radius() == 2
