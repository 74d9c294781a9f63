"""Estimates of the CTF are compared; what agrees is kept and averaged."""

import polars as pl
import pytest

from tests.protocols.fields_project import micrographs_of
from verglas.core.errors import PortError
from verglas.protocols.ctf.consensus import ConsensusParams, Inputs, run
from verglas.sdk.testing import LocalContext, check_protocol

N = 5


def _estimate(base, ids=range(N), **columns):
    """An estimate of some micrographs: 20000 Å, rings to 4 Å, unless told otherwise."""
    n = len(ids)
    values = {
        "defocus_u_angst": [20100.0] * n,
        "defocus_v_angst": [19900.0] * n,
        "defocus_angle_deg": [30.0] * n,
        "phase_shift_deg": [0.0] * n,
        "defocus_error_angst": [10.0] * n,
        "fit_res_angst": [4.0] * n,
        "fit_score": [0.9] * n,
        "ice_ring_ratio": [0.0] * n,
    } | columns
    frame = pl.DataFrame({"item_id": list(ids), **values})
    return base.select(frame).with_columns(frame)


def _run(root, *estimates, base=None, **params):
    inputs = Inputs(micrographs=base or micrographs_of(root, N), estimates=list(estimates))
    ctx = LocalContext(root)
    return run(ctx, ConsensusParams(**params), inputs), ctx


def test_protocol_declares_what_it_should():
    assert check_protocol(run).id == "ctf.consensus"


def test_agreeing_estimates_are_averaged_and_others_rejected(tmp_path):
    base = micrographs_of(tmp_path, N)
    shifted = [20110.0, 20110.0, 20110.0, 20110.0, 27000.0]
    other = _estimate(base, defocus_u_angst=shifted, defocus_v_angst=[x - 200.0 for x in shifted])
    outputs, ctx = _run(tmp_path, _estimate(base), other, base=base)
    kept = outputs.micrographs.rows()
    assert kept["item_id"].to_list() == [0, 1, 2, 3]
    assert kept["defocus_u_angst"].to_list() == pytest.approx([20105.0] * 4)
    assert kept["defocus_angle_deg"].to_list() == pytest.approx([30.0] * 4)
    assert kept["n_agreeing"].to_list() == [2] * 4
    assert outputs.rejected.rows()["ctf_reason"].to_list() == ["estimates differ"]
    assert ctx.metrics["n_accepted"] == 4


def test_two_of_three_are_enough(tmp_path):
    base = micrographs_of(tmp_path, N)
    wrong = _estimate(base, defocus_u_angst=[9000.0] * N, defocus_v_angst=[9000.0] * N)
    outputs, _ = _run(tmp_path, wrong, _estimate(base), _estimate(base), base=base)
    rows = outputs.micrographs.rows()
    assert rows["defocus_u_angst"].to_list() == pytest.approx([20100.0] * N)
    outputs, _ = _run(tmp_path, wrong, _estimate(base), _estimate(base), base=base, n_agreeing=3)
    assert outputs.micrographs.n_items == 0


def test_micrographs_of_too_few_estimates_are_rejected(tmp_path):
    base = micrographs_of(tmp_path, N)
    outputs, _ = _run(tmp_path, _estimate(base), _estimate(base, range(3)), base=base)
    assert outputs.micrographs.rows()["item_id"].to_list() == [0, 1, 2]
    assert set(outputs.rejected.rows()["ctf_reason"]) == {"too few estimates"}


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("defocus_u_angst", 130000.0, "defocus"),
        ("defocus_u_angst", 22500.0, "astigmatism"),
        ("fit_res_angst", 12.0, "fit resolution"),
        ("ice_ring_ratio", 2.0, "ice ring"),
    ],
)
def test_each_limit_rejects_and_says_so(tmp_path, column, value, reason):
    base = micrographs_of(tmp_path, N)
    default = {"defocus_u_angst": 20100.0, "fit_res_angst": 4.0, "ice_ring_ratio": 0.0}[column]
    estimate = _estimate(base, **{column: [value] + [default] * (N - 1)})
    outputs, _ = _run(tmp_path, estimate, estimate, base=base)
    assert outputs.rejected.rows()["item_id"].to_list() == [0]
    assert reason in outputs.rejected.rows()["ctf_reason"][0]


def test_best_estimate_may_be_taken_instead_of_the_average(tmp_path):
    base = micrographs_of(tmp_path, N)
    better = _estimate(base, defocus_u_angst=[20120.0] * N, fit_score=[0.95] * N)
    outputs, _ = _run(tmp_path, _estimate(base), better, base=base, average=False)
    assert outputs.micrographs.rows()["defocus_u_angst"].to_list() == pytest.approx([20120.0] * N)


def test_limits_alone_need_one_estimate(tmp_path):
    base = micrographs_of(tmp_path, N)
    outputs, _ = _run(tmp_path, _estimate(base), base=base, n_agreeing=1)
    assert outputs.micrographs.n_items == N


def test_one_estimate_is_refused_with_advice(tmp_path):
    base = micrographs_of(tmp_path, N)
    with pytest.raises(PortError, match="2 estimates are to agree, but 1"):
        _run(tmp_path, _estimate(base), base=base)


def test_other_micrographs_are_refused(tmp_path):
    base = micrographs_of(tmp_path, N)
    elsewhere = _estimate(base).with_columns(
        pl.DataFrame({"item_id": range(N), "image_path": [f"other/{i}.mrc" for i in range(N)]})
    )
    with pytest.raises(PortError, match="not of the same micrographs"):
        _run(tmp_path, elsewhere, elsewhere, base=base)
