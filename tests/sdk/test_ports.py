import pytest

from tests.model.frames import micrographs, with_ctf
from tests.sdk.examples import Inputs, Outputs
from verglas.core.errors import PortError
from verglas.model import MICROGRAPHS, VOLUMES, DataSet
from verglas.sdk import Ports, port
from verglas.sdk.ports import ports_of

OWNER = "micrographs.count_electrons"


def test_ports_hold_what_fits(tmp_path):
    data = micrographs(tmp_path)
    inputs = Inputs(micrographs=data, others=[data, data])
    assert inputs.micrographs is data
    assert inputs.reference is None
    assert inputs.items() == {"micrographs": [data], "reference": [], "others": [data, data]}


def test_missing_trait_is_told_with_advice(tmp_path):
    data = micrographs(tmp_path)
    with pytest.raises(PortError) as caught:
        Inputs(micrographs=data, reference=data)
    assert str(caught.value) == (
        "data set (micrographs) lacks defocus_u_angst, defocus_v_angst, defocus_angle_deg, "
        f"phase_shift_deg, needed by {OWNER}; run micrographs.estimate_ctf first"
    )
    Inputs(micrographs=data, reference=with_ctf(data))


def test_wrong_kind_is_told(tmp_path):
    class Maps(Ports):
        maps: DataSet = port(VOLUMES)

    with pytest.raises(PortError, match=r"'maps' takes volumes: got data set \(micrographs\)"):
        Maps(maps=micrographs(tmp_path))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda data: {}, "port 'micrographs' of .* is empty: expected micrographs"),
        (lambda data: {"micrographs": "d3"}, "takes micrographs: got str 'd3'"),
        (lambda data: {"micrographs": [data]}, "takes micrographs: got list"),
        (lambda data: {"micrographs": data, "others": data}, "takes a list of data sets: got Data"),
        (lambda data: {"micrographs": data, "mask": data}, "has no port 'mask'; its ports are mic"),
        (lambda data: {"micrographs": data.select([])}, "has no items: port 'micrographs' of"),
    ],
    ids=["empty", "text", "list", "single", "unknown", "no items"],
)
def test_what_does_not_fit_is_told(tmp_path, make, message):
    with pytest.raises(PortError, match=message):
        Inputs(**make(micrographs(tmp_path)))


def test_outputs_may_be_empty_data_sets(tmp_path):
    class Rejected(Ports):
        rejected: DataSet = port(MICROGRAPHS)

    assert Rejected(rejected=micrographs(tmp_path).select([])).rejected.n_items == 0


def test_outputs_are_checked_as_well(tmp_path):
    with pytest.raises(PortError, match="lacks score"):
        Outputs(counted=micrographs(tmp_path))


def test_declarations_can_be_listed():
    ports = ports_of(Inputs)
    assert list(ports) == ["micrographs", "reference", "others"]
    assert (ports["reference"].needs, ports["reference"].optional) == (("ctf",), True)
    assert ports["others"].many
    assert ports["micrographs"].help == MICROGRAPHS.meaning


def test_unknown_trait_is_refused_at_declaration():
    with pytest.raises(TypeError, match=r"unknown traits \['cft'\]"):
        port(MICROGRAPHS, needs=("cft",))


def test_attribute_that_is_no_port_is_refused():
    class Wrong(Ports):
        data: DataSet

    with pytest.raises(TypeError, match=r"Wrong.data must be declared with port\(\)"):
        ports_of(Wrong)
