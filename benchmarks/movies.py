"""Time the reading of movies of a full detector, and the simulation of small ones.

Usage: python benchmarks/movies.py [FOLDER]; writes and removes about 1 GB. Seconds are those
of the processor; run with OMP_NUM_THREADS=1.
"""

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from verglas.io.eer import EerEvents, write_eer
from verglas.io.movies import open_movie
from verglas.io.mrc import MrcStackWriter
from verglas.io.tiff import TiffStackWriter
from verglas.protocols.simulate.movies_simulate import Inputs, SimulateParams, run
from verglas.sdk.testing import LocalContext

SHAPE = (3710, 3838)
N_FRAMES = 6
EER_SHAPE, EER_EVENTS, N_RAW = (4096, 4096), 320_000, 600


def seconds(work: Callable[[], object], times: int = 1) -> float:
    """Processor time of some work, for each of `times`."""
    start = time.process_time()
    work()
    return (time.process_time() - start) / times


def read_all(path: Path, **options: int) -> None:
    """Read the first frames of a movie."""
    with open_movie(path, **options) as movie:
        for index in range(min(movie.n_frames, N_FRAMES)):
            movie.frame(index)


def time_pixels(folder: Path) -> None:
    """Time frames of whole numbers in TIFF and MRC."""
    rng = np.random.default_rng(0)
    frames = [rng.poisson(1.3, SHAPE).astype(np.uint8) for _ in range(2)]
    for compression in ("none", "lzw", "zstd"):
        path = folder / f"{compression}.tif"
        with TiffStackWriter(path, 1.2, compression=compression) as writer:
            for index in range(N_FRAMES):
                writer.append(frames[index % 2])
        took = seconds(lambda path=path: read_all(path), N_FRAMES)
        print(f"TIFF {compression}, {SHAPE[1]} x {SHAPE[0]} of 8 bits: {took:.3f} s a frame")
    with MrcStackWriter(folder / "a.mrc", SHAPE, 1.2, "int8") as writer:
        for index in range(N_FRAMES):
            writer.append(frames[index % 2])
    print(f"MRC: {seconds(lambda: read_all(folder / 'a.mrc'), N_FRAMES):.3f} s a frame")


def time_events(folder: Path) -> None:
    """Time raw frames of electron events."""
    rng = np.random.default_rng(0)

    def draw() -> EerEvents:
        places = np.unique(rng.integers(0, EER_SHAPE[0] * EER_SHAPE[1], EER_EVENTS))
        parts = rng.integers(0, 4, (2, places.size)).astype(np.uint8)
        return EerEvents(places // EER_SHAPE[1], places % EER_SHAPE[1], *parts)

    path, some = folder / "a.eer", [draw() for _ in range(3)]
    write_eer(path, (some[i % 3] for i in range(N_RAW)), EER_SHAPE, 0.7)
    print(f"EER of {N_RAW} raw frames opened: {seconds(lambda: open_movie(path)):.3f} s")
    read_all(path, eer_frames_per_fraction=1)  # compiles
    for zoom in (1, 2):
        options = {"eer_frames_per_fraction": 20, "eer_upsampling": zoom}
        took = seconds(lambda options=options: read_all(path, **options), 20 * N_FRAMES)
        print(f"EER, {EER_EVENTS} events, {zoom} pixel(s) a side: {1e3 * took:.1f} ms a raw frame")


def time_simulation(folder: Path) -> None:
    """Time simulated movies, written as TIFF."""
    small = SimulateParams(n_movies=1, n_frames=2, height_px=256, width_px=256)
    run(LocalContext(folder / "compile"), small, Inputs())
    params = SimulateParams(n_movies=2, particles_per_micrograph=45)
    took = seconds(lambda: run(LocalContext(folder / "made"), params, Inputs()), 2)
    print(f"simulated, 1024 x 1024 x 16: {took:.1f} s a movie")


def main() -> None:
    """Time everything in a folder that is removed."""
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name:
        folder = Path(name)
        time_pixels(folder)
        time_events(folder)
        for sub in ("compile", "made"):
            (folder / sub).mkdir()
        time_simulation(folder)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
