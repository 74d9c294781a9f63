"""Maps of Gaussian blobs: exact in every orientation, box and pixel size."""

import numpy as np
import torch

from verglas.kernels.symmetry import symmetry_operators


def blob_map(points, *, box, pixel_size_angst, sigma_angst):
    """Sum equal Gaussians at `[n, 3]` points (x, y, z in Å from the centre), in closed form."""
    axis = (np.arange(box) - box // 2) * pixel_size_angst
    x, y, z = (np.exp(-((axis - p[:, None]) ** 2) / (2 * sigma_angst**2)) for p in points.T)
    return torch.from_numpy(np.einsum("nz,ny,nx->zyx", z, y, x, optimize=True)).float()


def asymmetric_points(n=60, radius_angst=28.0, seed=0):
    """Scatter points without symmetry, none farther than 1.2 radii from the centre."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n, 3)) * (0.5, 0.35, 0.25) * radius_angst
    points[: n // 3] += np.array([0.5, 0.3, 0.0]) * radius_angst
    points -= points.mean(0)
    length = np.linalg.norm(points, axis=1, keepdims=True)
    return points * np.minimum(1, 1.2 * radius_angst / length)


def octahedral_shell(n=4, radius_angst=30.0, seed=0):
    """Scatter 24 copies of a few points near a sphere, axes as in `symmetry_operators`."""
    rng = np.random.default_rng(seed)
    unit = rng.normal(size=(n, 3))
    unit *= radius_angst * rng.uniform(0.85, 1.05, (n, 1)) / np.linalg.norm(unit, axis=1)[:, None]
    return np.concatenate([unit @ g.T for g in symmetry_operators("O").numpy()])


def with_noise(volume, *, ratio, seed=0):
    """Add white noise whose standard deviation is `ratio` times the map's."""
    generator = torch.Generator().manual_seed(seed)
    return volume + torch.randn(volume.shape, generator=generator) * volume.std() * ratio
