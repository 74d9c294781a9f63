"""Small movies on disk, and the data set that an import would make of them."""

import numpy as np
import polars as pl

from tests.algorithms.motion.simulated import drift, moving_movie
from verglas.io.mrc import write_mrc
from verglas.model import MOVIES
from verglas.model.dataset import make_dataset

N_FRAMES = 8
OPTICS = {
    "optics_group": [1],
    "pixel_size_angst": [1.2],
    "voltage_kv": [300.0],
    "spherical_aberration_mm": [2.7],
    "amplitude_contrast": [0.1],
}


def movies_on_disk(root, n_movies=3, *, size=96, dose=2.0, gain=1.0, counts=4.0, contrast=0.2):
    """Movies of 96 x 96 x 8, 4 counts a pixel, contrast 0.2, moved by up to 8 pixels."""
    root.mkdir(parents=True, exist_ok=True)
    paths, truth = [], []
    for i in range(n_movies):
        path = drift(N_FRAMES, i)
        movie = moving_movie(size, path, counts=counts, contrast=contrast, seed=i, gain=gain)
        file = root / f"movie_{i}.mrc"
        write_mrc(file, movie.frames.astype(np.int16), 1.2, mode="int16", is_stack=True)
        paths.append(file.name)
        truth.append(path)
    rows = pl.DataFrame(
        {
            "item_id": range(n_movies),
            "optics_group": [1] * n_movies,
            "image_path": paths,
            "label": [f"movie_{i}" for i in range(n_movies)],
            "n_frames": [N_FRAMES] * n_movies,
            "first_frame": [0] * n_movies,
            "last_frame": [N_FRAMES - 1] * n_movies,
            "frame_dose_e_per_angst2": [dose] * n_movies,
            "pre_exposure_e_per_angst2": [0.0] * n_movies,
        }
    )
    return make_dataset(MOVIES, rows, root=root, optics=pl.DataFrame(OPTICS)), truth
