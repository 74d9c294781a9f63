"""Small tables for tests of data sets."""

import polars as pl

from verglas.model import MICROGRAPHS, make_dataset

OPTICS = pl.DataFrame(
    {
        "optics_group": [1, 2],
        "pixel_size_angst": [1.5, 2.0],
        "voltage_kv": [300.0, 200.0],
        "spherical_aberration_mm": [2.7, 2.0],
        "amplitude_contrast": [0.1, 0.07],
    }
)


def micrograph_rows(n):
    """Make rows whose ids neither start at 0 nor ascend."""
    return pl.DataFrame(
        {
            "item_id": [10 * (n - i) for i in range(n)],
            "image_path": [f"import/{i:03d}.mrc" for i in range(n)],
            "image_slice": [0] * n,
            "optics_group": [1 + i % 2 for i in range(n)],
        }
    )


def micrographs(root, n=5):
    """Make a data set of micrographs in memory."""
    return make_dataset(MICROGRAPHS, micrograph_rows(n), root=root, optics=OPTICS)


def with_ctf(data):
    """Add the columns of the CTF."""
    ids = data.rows(["item_id"])
    defocus = pl.col("item_id") * 10.0
    return data.with_columns(
        ids.with_columns(
            defocus.alias("defocus_u_angst"),
            defocus.alias("defocus_v_angst"),
            defocus_angle_deg=pl.lit(0.0),
            phase_shift_deg=pl.lit(0.0),
        )
    )
