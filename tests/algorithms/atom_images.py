"""Images of a cloud of Gaussian atoms, exact in Fourier space and quick to make.

Everything that the CTF refinement and the curvature of the Ewald sphere need can be set:
defocus of each image, aberrations of the group, magnification, and the depth of each atom.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from verglas.algorithms.image_tables import Images
from verglas.kernels.electron import electron_wavelength_angst
from verglas.kernels.rotations import rotations_of_angles


@dataclass
class Scene:
    """What is imaged and how; `odd(kx, ky)` and `even(kx, ky)` are phases in radians."""

    box: int = 32
    pixel: float = 4.0
    n: int = 100
    snr: float = 0.0  # variance of signal over that of noise in the whole box; 0 for no noise
    n_atoms: int = 60
    radius: float = 40.0
    sigma: float = 2.0
    shift: float = 3.0
    defocus: tuple[float, float] = (8000.0, 20000.0)
    astigmatism: float = 300.0
    voltage: float = 300.0
    odd: object = None
    even: object = None
    magnification: np.ndarray = field(default_factory=lambda: np.eye(2))
    depth_sign: int = 0  # defocus of an atom is that of the image minus this times its height
    seed: int = 0


@dataclass
class Scenery:
    """Images with their truth."""

    pictures: np.ndarray
    images: Images
    angles: np.ndarray
    volume: np.ndarray
    noise_std: float
    scene: Scene


def _atoms(scene, rng):
    points = rng.normal(size=(scene.n_atoms, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return points * scene.radius * rng.uniform(0, 1, (scene.n_atoms, 1)) ** (1 / 3)


def _envelope(square, scene):
    return np.exp(-2 * (math.pi * scene.sigma) ** 2 * square)


def _centre(n, k):
    return np.exp(2j * math.pi * k * (n // 2) / n)


def true_volume(scene, atoms):
    """The map that the images are projections of."""
    n = scene.box
    k = np.fft.fftfreq(n, 1 / n)
    kx = np.arange(n // 2 + 1)
    step = n * scene.pixel
    parts = [np.exp(-2j * math.pi * np.outer(atoms[:, i], axis / step)) for i, axis in
             enumerate((kx, k, k))]  # fmt: skip
    volume_ft = np.einsum("az,ay,ax->zyx", parts[2], parts[1], parts[0], optimize=True)
    square = (k[:, None, None] ** 2 + k[:, None] ** 2 + kx**2) / step**2
    phase = _centre(n, k)[:, None, None] * _centre(n, k)[:, None] * _centre(n, kx)
    shape = (n, n, n)
    return np.fft.irfftn(
        volume_ft * _envelope(square, scene) * phase.conj(), s=shape, axes=(0, 1, 2)
    )


def make_scenery(scene):
    """Draw poses and defoci, and make the images."""
    rng = np.random.default_rng(scene.seed)
    atoms = _atoms(scene, rng)
    n = scene.n
    tilt = np.degrees(np.arccos(rng.uniform(-1, 1, n)))
    angles = np.stack([rng.uniform(-180, 180, n), tilt, rng.uniform(-180, 180, n)], 1)
    rotations = rotations_of_angles(angles)
    shifts = rng.normal(size=(n, 2)) * scene.shift
    mean = rng.uniform(*scene.defocus, n)
    half = rng.uniform(0, scene.astigmatism / 2, n)
    angle = rng.uniform(0, 180, n)
    ones = np.ones(n)
    images = Images(
        rotations, shifts, mean + half, mean - half, angle, 0 * ones,
        scene.voltage * ones, 2.7 * ones, 0.1 * ones, np.zeros(n, np.int64),
    )  # fmt: skip
    pictures = np.stack([_picture(scene, atoms, images, i) for i in range(n)])
    noise = math.sqrt(pictures.var() / scene.snr) if scene.snr else 0.0
    pictures = pictures + noise * rng.normal(size=pictures.shape)
    volume = true_volume(scene, atoms)
    return Scenery(pictures.astype(np.float32), images, angles, volume, noise, scene)


def _picture(scene, atoms, images, i):
    box, step = scene.box, scene.box * scene.pixel
    ky = np.fft.fftfreq(box, 1 / box)[:, None] / step
    kx = np.arange(box // 2 + 1)[None] / step
    m = scene.magnification
    mx, my = m[0, 0] * kx + m[0, 1] * ky, m[1, 0] * kx + m[1, 1] * ky
    square = mx**2 + my**2
    place = atoms @ images.rotation_ref_to_img[i].T
    wavelength = electron_wavelength_angst(scene.voltage)
    u, v, a = (getattr(images, f"defocus_{x}")[i] for x in ("u_angst", "v_angst", "angle_deg"))
    turn = 2 * (np.arctan2(my, mx) - math.radians(a))
    defocus = (u + v) / 2 + (u - v) / 2 * np.cos(turn)
    gamma = math.pi * wavelength * defocus * square
    gamma = gamma - math.pi / 2 * 2.7e7 * wavelength**3 * square**2 + math.asin(0.1)
    if scene.even is not None:
        gamma = gamma + scene.even(mx, my)
    if scene.depth_sign:
        depth = math.pi * wavelength * scene.depth_sign * square
        total = sum(
            np.sin(gamma - depth * z) * np.exp(-2j * math.pi * (mx * x + my * y))
            for x, y, z in place
        )
    else:
        waves = np.exp(
            -2j * math.pi * (place[:, 0, None, None] * mx + place[:, 1, None, None] * my)
        )
        total = np.sin(gamma) * waves.sum(0)
    total = total * _envelope(square, scene)
    if scene.odd is not None:
        total = total * np.exp(1j * scene.odd(mx, my))
    sx, sy = images.shift_angst[i]
    total = total * np.exp(2j * math.pi * (kx * sx + ky * sy))
    phase = _centre(box, ky * step) * _centre(box, kx * step)
    return np.fft.irfft2(total * phase.conj(), s=(box, box))
