"""Small data sets of every kind, with files, for tests of panels."""

import numpy as np
import polars as pl

from verglas.io.images import write_png
from verglas.io.mrc import write_mrc
from verglas.model import (
    ATOMS,
    CLASSES2D,
    COORDINATES,
    CURVES,
    MASKS,
    MICROGRAPHS,
    MOVIES,
    PARTICLES,
    VOLUMES,
    make_dataset,
)

OPTICS = pl.DataFrame(
    {
        "optics_group": [1],
        "pixel_size_angst": [2.0],
        "voltage_kv": [300.0],
        "spherical_aberration_mm": [2.7],
        "amplitude_contrast": [0.1],
        "box_px": [32],
    }
)


def normal(*shape):
    return np.random.default_rng(5).normal(size=shape).astype(np.float32)


def micrographs(root, n=3):
    for i in range(n):
        write_mrc(root / f"m{i}.mrc", normal(80, 100), 2.0, is_stack=False)
    rows = {"image_path": [f"m{i}.mrc" for i in range(n)], "image_slice": 0, "optics_group": 1}
    return make_dataset(MICROGRAPHS, pl.DataFrame(rows), root=root, optics=OPTICS)


def fitted(root, n=3):
    data = micrographs(root, n)
    k = np.linspace(0.03, 0.3, 60)
    ctf2 = np.sin(2000 * k**2) ** 2
    for i in range(n):
        write_png(root / f"spectrum{i}.png", normal(61, 61))
    columns = {
        "item_id": list(range(n)),
        "defocus_u_angst": [20000.0 + i for i in range(n)],
        "defocus_v_angst": [19000.0] * n,
        "defocus_angle_deg": [0.0] * n,
        "phase_shift_deg": [0.0] * n,
        "fit_res_angst": [4.0 + i for i in range(n)],
        "fit_score": [0.5] * n,
        "spectrum_path": [f"spectrum{i}.png" for i in range(n)],
        "profile_per_angst": [k.tolist()] * n,
        "profile_power": [(ctf2 + 0.1).tolist()] * n,
        "profile_ctf2": [ctf2.tolist()] * n,
        "profile_score": [(1 - k).tolist()] * n,
    }
    return data.with_columns(pl.DataFrame(columns))


def coordinates(root, n=8):
    rows = pl.DataFrame(
        {
            "coord_x_angst": np.linspace(20, 150, n),
            "coord_y_angst": np.linspace(20, 120, n),
            "score": np.linspace(0, 1, n),
            "diameter_angst": [20.0] * n,
            "micrograph_path": [f"m{i % 2}.mrc" for i in range(n)],
            "micrograph_id": [i % 2 for i in range(n)],
            "optics_group": [1] * n,
        }
    )
    micrographs(root)
    return make_dataset(COORDINATES, rows, root=root, optics=OPTICS)


def _stack(root, name, n):
    write_mrc(root / name, normal(n, 32, 32), 2.0, is_stack=True)
    return pl.DataFrame(
        {"image_path": [name] * n, "image_slice": range(n), "optics_group": [1] * n}
    )


def particles(root, n=12):
    return make_dataset(PARTICLES, _stack(root, "p.mrcs", n), root=root, optics=OPTICS)


def posed(root, n=12):
    spread = np.linspace(-3, 3, n)
    poses = pl.DataFrame(
        {
            "item_id": range(n),
            "angle_rot_deg": spread * 50,
            "angle_tilt_deg": np.linspace(10, 170, n),
            "angle_psi_deg": spread,
            "shift_x_angst": spread,
            "shift_y_angst": -spread,
            "class_index": [0] * n,
            "class_prob": np.linspace(0.2, 1.0, n),
            "n_significant": range(1, n + 1),
        }
    )
    return particles(root, n).with_columns(poses)


def classes(root, n=5):
    rows = _stack(root, "c.mrcs", n).with_columns(
        class_index=pl.int_range(n, dtype=pl.Int64),
        n_particles=pl.Series([10 * (i + 1) for i in range(n)]),
        resolution_angst=pl.Series([8.0 + i for i in range(n)]),
    )
    return make_dataset(CLASSES2D, rows, root=root, optics=OPTICS)


def volumes(root):
    axis = np.arange(32) - 16
    distance = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    ball = (1 / (1 + np.exp(distance - 8))).astype(np.float32)
    mask = np.clip(12 - distance, 0, 1).astype(np.float32)
    write_mrc(root / "v.mrc", ball, 2.0, is_stack=False)
    write_mrc(root / "mask.mrc", mask, 2.0, is_stack=False)
    rows = pl.DataFrame(
        {
            "image_path": ["v.mrc"],
            "mask_path": ["mask.mrc"],
            "resolution_angst": [6.0],
            "optics_group": [1],
        }
    )
    return make_dataset(VOLUMES, rows, root=root, optics=OPTICS)


def masks(root):
    volumes(root)
    rows = pl.DataFrame({"image_path": ["mask.mrc"], "optics_group": [1]})
    return make_dataset(MASKS, rows, root=root, optics=OPTICS)


def curves(root):
    k = np.linspace(0, 0.25, 17)
    labels = ("unmasked", "masked", "random phases", "corrected")
    rows = [
        {"label": label, "x_per_angst": k, "y": 1 / (1 + np.exp((k - 0.1 - 0.01 * i) * 60))}
        for i, label in enumerate(labels)
    ]
    rows = [
        {**row, "x_per_angst": row["x_per_angst"].tolist(), "y": row["y"].tolist()} for row in rows
    ]
    frame = pl.DataFrame(rows).with_columns(
        y_label=pl.lit("Fourier shell correlation"), x_label=pl.lit("Spatial frequency (1/Å)")
    )
    return make_dataset(CURVES, frame, root=root)


def atoms(root):
    rows = pl.DataFrame({"atoms_path": ["model.cif"], "label": ["model"]})
    return make_dataset(ATOMS, rows, root=root)


def movies(root, n=5):
    """Only every other movie was looked into."""
    for i in range(0, n, 2):
        write_png(root / f"sum{i}.png", normal(40, 50))
    rows = {
        "image_path": [f"m{i}.tif" for i in range(n)],
        "label": [f"m{i}" for i in range(n)],
        "optics_group": 1,
        "n_frames": [40] * (n - 1) + [38],
        "first_frame": 0,
        "last_frame": 37,
        "frame_dose_e_per_angst2": 1.1,
        "pre_exposure_e_per_angst2": 0.0,
        "image_height_px": 80,
        "image_width_px": 100,
        "thumbnail_path": [None if i % 2 else f"sum{i}.png" for i in range(n)],
    }
    return make_dataset(MOVIES, pl.DataFrame(rows), root=root, optics=OPTICS)


EVERY_KIND = {
    maker.__name__: maker
    for maker in (
        movies,
        micrographs,
        fitted,
        coordinates,
        particles,
        posed,
        classes,
        volumes,
        masks,
        curves,
        atoms,
    )
}
