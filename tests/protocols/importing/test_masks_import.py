import numpy as np
import pytest

from verglas.core.errors import FormatError, ParamsError
from verglas.io.mrc import write_mrc
from verglas.kernels.masks import soft_sphere
from verglas.protocols.importing.masks_import import ImportParams, Inputs, run
from verglas.sdk.testing import LocalContext, check_protocol

SOFT = soft_sphere(12, 3.0, 2.0).numpy()


def imported(root, array, **params):
    write_mrc(root / "m.mrc", np.asarray(array, np.float32), 1.5, is_stack=False)
    ctx = LocalContext(root)
    return run(ctx, ImportParams(files=["m.mrc"], **params), Inputs()).masks, ctx


def test_protocol_declares_what_it_should():
    assert check_protocol(run).id == "masks.import"


def test_a_soft_mask_is_taken_with_size_and_pixel(tmp_path):
    data, ctx = imported(tmp_path, SOFT)
    row = data.rows(with_optics=True).row(0, named=True)
    assert (row["image_path"], row["label"], row["box_px"]) == ("m.mrc", "m", 12)
    assert row["pixel_size_angst"] == pytest.approx(1.5)
    assert data.kind.id == "masks"
    assert ctx.warnings == []


def test_a_hard_edge_is_warned_about(tmp_path):
    _, ctx = imported(tmp_path, SOFT > 0.5)
    assert "edge of m.mrc is hard" in ctx.warnings[0]


@pytest.mark.parametrize("array", [SOFT * 7.0, SOFT - 0.5, SOFT * 0.0])
def test_what_is_no_mask_is_refused_with_its_values(tmp_path, array):
    with pytest.raises(FormatError, match="is no mask: values go from"):
        imported(tmp_path, array)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(ParamsError, match=r"masks.import files: nothing matches 'x.mrc'"):
        run(LocalContext(tmp_path), ImportParams(files=["x.mrc"]), Inputs())
