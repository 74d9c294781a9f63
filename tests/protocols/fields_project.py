"""A project folder with small simulated micrographs whose particles are known."""

import numpy as np
import polars as pl

from tests.algorithms.fields import field
from verglas.io.mrc import write_mrc
from verglas.model import MICROGRAPHS, make_dataset

PIXEL = 2.0
DIAMETER = 120.0
SHAPE = (480, 520)


def make_fields(root, n=5, *, n_particles=14, contrast=0.25):
    """Write `data/field_00.mrc` ...; true positions of each in pixels."""
    truth = []
    (root / "data").mkdir(parents=True, exist_ok=True)
    for i in range(n):
        image, points = field(
            np.random.default_rng(100 + i),
            n_particles,
            diameter_angst=DIAMETER,
            contrast=contrast,
            shape=SHAPE,
            pixel_size_angst=PIXEL,
            defocus_angst=15000.0 + 1000.0 * i,
        )
        write_mrc(root / "data" / f"field_{i:02d}.mrc", image, PIXEL)
        truth.append(points)
    return truth


def micrographs_of(root, n=5, **columns):
    """Micrographs data set of files that `make_fields` wrote."""
    rows = pl.DataFrame(
        {
            "optics_group": [1] * n,
            "image_path": [f"data/field_{i:02d}.mrc" for i in range(n)],
            "image_slice": [0] * n,
            "image_height_px": [SHAPE[0]] * n,
            "image_width_px": [SHAPE[1]] * n,
            **columns,
        }
    )
    optics = pl.DataFrame(
        {
            "optics_group": [1],
            "pixel_size_angst": [PIXEL],
            "voltage_kv": [300.0],
            "spherical_aberration_mm": [2.7],
            "amplitude_contrast": [0.07],
        }
    )
    return make_dataset(MICROGRAPHS, rows, root=root, optics=optics)


def true_ctf(n=5):
    """CTF columns of the simulated micrographs."""
    defocus = [15000.0 + 1000.0 * i for i in range(n)]
    return {
        "defocus_u_angst": [value + 150.0 for value in defocus],
        "defocus_v_angst": [value - 150.0 for value in defocus],
        "defocus_angle_deg": [40.0] * n,
        "phase_shift_deg": [0.0] * n,
    }
