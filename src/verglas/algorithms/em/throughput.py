"""How much of the machine's matrix product the dense comparison of views reaches.

The comparison is a product of shifted views with slices: 4 K floating-point operations for
each view, shift and orientation, K the coefficients. That number over the time taken, over what
a plain matrix product of the same type reaches, is the fraction. An engine that needs fewer
operations for the same scores can exceed 1.
"""

import time
from dataclasses import dataclass

import torch

from verglas.algorithms.em.expectation import Level, References, Search, expect
from verglas.algorithms.em.search import shift_grid
from verglas.algorithms.views import Views
from verglas.kernels.disc import half_disc
from verglas.kernels.slices import volume_to_half_volume
from verglas.kernels.so3 import orientation_grid

__all__ = ["Throughput", "measure_throughput"]

_BOX = 64
_RADIUS = 16
_PIXEL_ANGST = 3.0
_GRID_ORDER = 2  # 15 degrees: 4,608 orientations
_SIDE = 1536  # of the matrices whose product is the ceiling
_REPEATS = 3


@dataclass(frozen=True)
class Throughput:
    """Rates on one thread, in 10^9 floating-point operations a second of processor time.

    Attributes:
        ceiling_gflops: of a product of large float32 matrices.
        scoring_gflops: of the dense comparison, sums included, counted as such products.
    """

    ceiling_gflops: float
    scoring_gflops: float

    @property
    def fraction(self) -> float:
        """Part of the ceiling that is reached."""
        return self.scoring_gflops / self.ceiling_gflops


def measure_throughput(n_views: int = 128) -> Throughput:
    """Time both on one thread; the best of three.

    Args:
        n_views: images compared with every orientation at 21 shifts or so.
    """
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return Throughput(_ceiling_gflops(), _scoring_gflops(n_views))
    finally:
        torch.set_num_threads(n_threads)


def _ceiling_gflops() -> float:
    a, b = torch.rand(2, _SIDE, _SIDE)
    seconds = []
    for _ in range(_REPEATS):
        start = time.process_time()
        torch.mm(a, b)
        seconds.append(time.process_time() - start)
    return 2e-9 * _SIDE**3 / max(min(seconds), 1e-9)


def _scoring_gflops(n_views: int) -> float:
    generator = torch.Generator().manual_seed(0)
    disc = half_disc(_BOX, _RADIUS)
    n = disc.n_coefficients
    views = Views(
        data=torch.randn(n_views, n, generator=generator, dtype=torch.complex64),
        ctf=torch.ones(n_views, n),
        noise_power=torch.ones(n_views, _RADIUS + 1),
        group=torch.zeros(n_views, dtype=torch.long),
        disc=disc,
        pixel_size_angst=_PIXEL_ANGST,
    )
    volume = torch.randn(1, _BOX, _BOX, _BOX, generator=generator) * 1e-3
    references = References(
        half_volumes=volume_to_half_volume(volume, radius=_RADIUS),
        log_prior=torch.zeros(1),
        padding=2,
        planar=False,
    )
    shifts = shift_grid(10.0, 4.0)
    grid = orientation_grid(_GRID_ORDER)
    search = Search(
        rotations_ref_to_img=grid,
        levels=(Level(step_deg=15.0, radius=_RADIUS, shifts_angst=shifts),),
        shift_prior_angst=5.0,
    )
    seconds = []
    for _ in range(_REPEATS):
        start = time.process_time()
        expect(views, references, search, n_groups=1)
        seconds.append(time.process_time() - start)
    operations = 4.0 * n * n_views * len(shifts) * len(grid)
    return 1e-9 * operations / max(min(seconds), 1e-9)
