"""Find a first map from several seeds, and count how often it is right.

    python benchmarks/first_map.py STACKS/oct64 --symmetry O --diameter-angst 170 --seeds 20

The folder holds `particles.star` (with the images it names) and `ref_true.mrc`, a map of the true
particle in the box of the images; the axes of a point group lie where RELION has them. One line a
seed: CPU seconds of the whole protocol, reading included, agreement with a second start, mean
FSC with the truth to 15 Å and the resolution at FSC 0.5, in the better hand. A map is right if
that FSC reaches 15 Å. Nothing of the truth enters the search.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch

from verglas.algorithms.em.agreement import aligned_fsc
from verglas.io.mrc import read_mrc
from verglas.kernels.fourier import fourier_resize3
from verglas.kernels.fsc import resolution_at
from verglas.protocols.importing import particles_import
from verglas.protocols.initial import initial_volume
from verglas.sdk.testing import LocalContext

RIGHT_ANGST = 15.0


def main() -> None:
    """Run all seeds and print the count."""
    options = _options()
    torch.set_num_threads(1)
    folder = options.folder.resolve()
    truth = torch.from_numpy(read_mrc(folder / "ref_true.mrc")[0])
    right, seconds = 0, []
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        start = time.process_time()
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            volume, pixel, agreement = _run(folder, Path(scratch), options, seed)
        seconds.append(time.process_time() - start)
        mean, resolution = _compare(volume, truth, pixel, options)
        right += resolution <= RIGHT_ANGST
        print(
            f"seed {seed}  CPU {seconds[-1]:.1f} s  agreement {agreement:.2f}  "
            f"FSC to 15 A {mean:.2f}  FSC 0.5 at {resolution:.1f} A",
            flush=True,
        )
    n = options.seeds
    print(f"{right} of {n} right, {sum(seconds) / n:.1f} CPU s a seed ({max(seconds):.1f} at most)")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--symmetry", default="C1")
    parser.add_argument("--diameter-angst", type=float, required=True)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--n-searches", type=int, default=None)
    parser.add_argument("--n-finalists", type=int, default=None)
    return parser.parse_args()


def _run(
    folder: Path, scratch: Path, options: argparse.Namespace, seed: int
) -> tuple[torch.Tensor, float, float]:
    """Run the protocols; return map, pixel size and agreement."""
    job = str(scratch.relative_to(folder))
    inputs = LocalContext(folder, job=f"{job}/import")
    found = particles_import.run(
        inputs, particles_import.ImportParams(file="particles.star"), particles_import.Inputs()
    )
    ctx = LocalContext(folder, job=f"{job}/first", seed=seed)
    params = initial_volume.InitialVolumeParams(
        symmetry=options.symmetry,
        diameter_angst=options.diameter_angst,
        n_searches=options.n_searches,
        n_finalists=options.n_finalists,
    )
    out = initial_volume.run(ctx, params, initial_volume.Inputs(particles=found.particles))
    volume, pixel = read_mrc(folder / out.volumes.rows()["image_path"][0])
    return torch.from_numpy(volume), pixel, float(ctx.metrics["agreement"])


def _compare(
    volume: torch.Tensor, truth: torch.Tensor, pixel: float, options: argparse.Namespace
) -> tuple[float, float]:
    n = volume.shape[-1]
    if truth.shape[-1] != n:
        truth = fourier_resize3(truth[None], shape=(n,) * 3)[0]
    fsc = aligned_fsc(
        truth,
        volume,
        pixel_size_angst=pixel,
        diameter_angst=options.diameter_angst,
        resolution_angst=2 * pixel,
        symmetry=options.symmetry,
    )
    last = round(n * pixel / RIGHT_ANGST)
    resolution = resolution_at(fsc[None], 0.5, box=n, pixel_size_angst=pixel)
    return float(fsc[2 : last + 1].mean()), float(resolution[0])


if __name__ == "__main__":
    main()
