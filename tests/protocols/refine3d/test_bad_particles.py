"""What refinement, classification and reconstruction say of particles they cannot take."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests.protocols.simulated import OPTICS, particles_of, simulated, truth_of, volumes_of
from verglas.core.errors import PortError
from verglas.io.mrc import write_mrc
from verglas.model import PARTICLES, make_dataset
from verglas.protocols.refine3d import classify_3d, reconstruct, refine_3d
from verglas.sdk.testing import LocalContext


@dataclass(frozen=True)
class Step:
    """A protocol with parameters that would let it run."""

    module: Any
    params: Any
    takes_map: bool

    def run(self, root, particles, volume):
        given = {"reference": volumes_of(root, volume)} if self.takes_map else {}
        inputs = self.module.Inputs(particles=particles, **given)
        return self.module.run(LocalContext(root), self.params, inputs)


REFINE = Step(refine_3d, refine_3d.Refine3dParams(diameter_angst=130), takes_map=True)
CLASSIFY = Step(classify_3d, classify_3d.Classify3dParams(diameter_angst=130), takes_map=True)
RECONSTRUCT = Step(reconstruct, reconstruct.ReconstructParams(), takes_map=False)
STEPS = pytest.mark.parametrize("step", [REFINE, CLASSIFY, RECONSTRUCT], ids=lambda s: s.module._ID)


@pytest.fixture
def made():
    return simulated("apoferritin", 120, 1.0)


@STEPS
def test_particles_of_another_pixel_size_are_refused_with_the_column(step, made, tmp_path):
    data = particles_of(tmp_path, made, keep_poses=True)
    second = data.optics.with_columns(
        optics_group=pl.lit(2, data.optics["optics_group"].dtype), pixel_size_angst=6.0
    )
    rows = data.rows().with_columns(
        optics_group=pl.when(pl.col("item_id") < 9).then(2).otherwise("optics_group")
    )
    mixed = make_dataset(PARTICLES, rows, root=tmp_path, optics=pl.concat([data.optics, second]))
    with pytest.raises(PortError, match="2 pixel sizes, 5 to 6 Å, in pixel_size_angst"):
        step.run(tmp_path, mixed, truth_of("apoferritin", made))


@STEPS
def test_particles_of_another_box_are_refused_with_the_column(step, made, tmp_path):
    data = particles_of(tmp_path, made, keep_poses=True)
    pixel = OPTICS.pixel_size_angst
    write_mrc(tmp_path / "s.mrcs", np.zeros((1, 20, 20), np.float32), pixel, is_stack=True)
    one = pl.col("item_id") == 5
    rows = data.rows(("item_id", "image_path", "image_slice")).with_columns(
        image_path=pl.when(one).then(pl.lit("s.mrcs")).otherwise("image_path"),
        image_slice=pl.when(one).then(0).otherwise("image_slice"),
    )
    with pytest.raises(PortError, match=r"image_path: 1 particles of 20 px, as in 's\.mrcs'"):
        step.run(tmp_path, data.with_columns(rows), truth_of("apoferritin", made))


@pytest.mark.parametrize("step", [REFINE, CLASSIFY], ids=lambda s: s.module._ID)
def test_an_image_in_both_halves_is_refused(step, made, tmp_path):
    data = particles_of(tmp_path, made, keep_poses=True)
    rows = data.rows(("item_id", "image_path")).with_columns(
        image_slice=pl.int_range(pl.len(), dtype=pl.Int64) % 110,
        half_set=(pl.int_range(pl.len()) >= 110).cast(pl.Int8) + 1,
    )
    with pytest.raises(PortError, match="10 images are in both half sets, as that of item"):
        step.run(tmp_path, data.with_columns(rows), truth_of("apoferritin", made))
