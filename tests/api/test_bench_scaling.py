"""Growth of cost: the fit, and a refinement measured by stages."""

import pytest

from verglas.api.bench_scaling import Measured, Size, growth, measure
from verglas.core.errors import UserError

STAGES = ("reading", "scale", "expectation", "audit", "maximisation")


def _measured(n, box, seconds):
    return Measured(Size(n, box), 5, 8.0, dict.fromkeys(STAGES, seconds / 5), 100.0, 200.0)


def test_exponents_are_those_of_the_powers():
    fits = growth("n_particles", [_measured(n, 64, 0.01 * n) for n in (1000, 2000, 5000)])
    assert [fit.stage for fit in fits] == [*STAGES, "total"]
    assert all(fit.exponent == pytest.approx(1.0) for fit in fits)
    assert {fit.expected for fit in fits} == {1.0}
    fits = {fit.stage: fit for fit in growth("box_px", [_measured(9, b, b**2) for b in (64, 128)])}
    assert fits["total"].exponent == pytest.approx(2.0)
    assert fits["maximisation"].expected == 3.0


def test_a_refinement_is_measured_by_stages_and_not_taken_from_the_store(tmp_path):
    # 60 images of 24 px of 8 Å at SNR 2, O, one iteration
    size = Size(60, 24)
    found = measure(tmp_path, size, snr=2.0, max_iterations=1)
    assert found.iterations == 1
    assert found.cpu_s > 0
    assert found.stages["expectation"] > 0
    assert found.stages["maximisation"] > 0
    assert found.peak_mb >= found.start_mb > 50
    with pytest.raises(UserError, match="would not be measured again"):
        measure(tmp_path, size, snr=2.0, max_iterations=1)
