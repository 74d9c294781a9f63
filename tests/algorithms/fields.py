"""Fields of simulated particles for tests of picking and extraction."""

import math

import numpy as np

from tests.algorithms.thon import ctf


def scatter(rng, n, *, shape, pixel_size_angst, diameter_angst):
    """Random positions `[n, 2]` (x, y) in pixels that neither overlap nor touch the border."""
    margin, apart = (
        0.6 * diameter_angst / pixel_size_angst,
        1.05 * diameter_angst / pixel_size_angst,
    )
    low, high = np.array([margin, margin]), np.array([shape[1], shape[0]]) - margin
    points = np.zeros((0, 2))
    for _ in range(20000):
        if len(points) == n:
            break
        point = rng.uniform(low, high)
        if not len(points) or np.hypot(*(points - point).T).min() > apart:
            points = np.vstack([points, point])
    return points


def lumps(rng, kind, radius_angst):
    """Centres `[m, 2]` of blobs of 7 Å that make one randomly turned particle."""
    n = round(300 * (radius_angst / 60) ** 3)
    direction = rng.normal(size=(n, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    if kind == "shell":
        return direction[:, :2] * radius_angst * rng.uniform(0.65, 0.95, (n, 1))
    points = direction * radius_angst * 0.85 * rng.uniform(size=(n, 1)) ** (1 / 3)
    if kind == "rod":
        angle = rng.uniform(0, math.pi)
        along, across = points[:, 0], 0.45 * points[:, 1]
        return np.stack(
            [along * math.cos(angle) - across * math.sin(angle),
             along * math.sin(angle) + across * math.cos(angle)], axis=1
        )  # fmt: skip
    return points[:, :2]


def field(
    rng,
    n,
    *,
    kind="ball",
    diameter_angst=120.0,
    contrast=0.14,
    n_ice=0,
    shape=(900, 1000),
    pixel_size_angst=1.5,
    defocus_angst=18000.0,
):
    """Micrograph with `n` particles (fewer if they do not fit), and their positions in pixels.

    Shot noise has variance 1; `contrast` is the height of one blob.
    """
    points = scatter(
        rng, n, shape=shape, pixel_size_angst=pixel_size_angst, diameter_angst=diameter_angst
    )
    counts = np.zeros(shape)
    for point in points:
        blobs = point + lumps(rng, kind, 0.5 * diameter_angst) / pixel_size_angst
        column, row = blobs.round().astype(int).T
        inside = (row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1])
        np.add.at(counts, (row[inside], column[inside]), 1.0)
    transfer, square = ctf(
        shape,
        pixel_size_angst=pixel_size_angst,
        defocus_angst=defocus_angst,
        astigmatism_angst=300.0,
        angle_deg=40.0,
        cs_mm=2.7,
        kv=300.0,
    )
    blob = 2 * math.pi * (7.0 / pixel_size_angst) ** 2 * np.exp(-2 * (math.pi * 7.0) ** 2 * square)
    specimen = np.fft.rfft2(counts) * blob * contrast
    specimen += np.fft.rfft2(rng.standard_normal(shape)) * 0.3
    signal = np.fft.irfft2(specimen * transfer * np.exp(-15 * square), s=shape)
    image = rng.standard_normal(shape) - signal
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    for _ in range(n_ice):
        x, y = rng.uniform(0, shape[1]), rng.uniform(0, shape[0])
        image -= 4 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 2 / rng.uniform(20, 50) ** 2)
    return image.astype(np.float32), points


def n_matched(found, truth, radius_px):
    """Number of one-to-one pairs within a radius."""
    from scipy.optimize import linear_sum_assignment

    if not len(found) or not len(truth):
        return 0
    distance = np.hypot(*(found[:, None] - truth[None]).transpose(2, 0, 1))
    row, column = linear_sum_assignment(np.where(distance <= radius_px, distance, 1e6))
    return int((distance[row, column] <= radius_px).sum())
